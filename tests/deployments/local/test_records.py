"""Records on disk: whole or not at all, and private."""

from __future__ import annotations

import json
import os
import stat

import pytest

from mlflow_llm_plugins.deployments.local.records import (
    Spec,
    Status,
    UnreadableRecordError,
    read_record,
    write_private,
    write_record,
)
from mlflow_llm_plugins.deployments.local.specs import first_spec


def test_a_record_is_read_as_it_was_written(tmp_path, model):
    spec = first_spec("chat", {"port": "5001", "model_config": {"x": 1}}).model_copy(update={"model": model})
    write_record(spec, tmp_path / "spec.json")
    assert read_record(Spec, tmp_path / "spec.json") == spec


def test_only_its_owner_can_read_it(tmp_path):
    write_record(first_spec("chat", {}), tmp_path / "spec.json")
    assert stat.S_IMODE((tmp_path / "spec.json").stat().st_mode) == 0o600


def test_no_file_is_no_record(tmp_path):
    assert read_record(Status, tmp_path / "status.json") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', '{"format": "x"}'])
def test_a_half_written_file_is_told_apart_from_none(tmp_path, content):
    (tmp_path / "spec.json").write_text(content)
    with pytest.raises(UnreadableRecordError, match=r"spec\.json is damaged"):
        read_record(Spec, tmp_path / "spec.json")


def test_a_configuration_that_makes_no_sense_is_damage(tmp_path):
    content = json.loads(first_spec("chat", {}).model_dump_json())
    (tmp_path / "spec.json").write_text(json.dumps({**content, "config": {"prot": 1}}))
    with pytest.raises(UnreadableRecordError, match="damaged"):
        read_record(Spec, tmp_path / "spec.json")


def test_a_record_of_a_later_version_is_refused(tmp_path):
    write_record(first_spec("chat", {}).model_copy(update={"format": 2}), tmp_path / "spec.json")
    with pytest.raises(UnreadableRecordError, match=r"has format 2; this version knows 1. Upgrade"):
        read_record(Spec, tmp_path / "spec.json")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_half_way_leaves_the_old_content(tmp_path, monkeypatch, step):
    old = first_spec("chat", {})
    write_record(old, tmp_path / "spec.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_record(first_spec("other", {}), tmp_path / "spec.json")
    assert read_record(Spec, tmp_path / "spec.json") == old
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_private_content_replaces_what_others_could_read(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(b"new", path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

"""A large file is read once; one that was changed is read again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from mlflow_llm_plugins.quantized_llm.file_digests import FileDigests, digest_of

LONG_AGO_NS = 10**18


@pytest.fixture
def file(tmp_path) -> Path:
    return written(tmp_path / "model.safetensors", b"first", LONG_AGO_NS)


def written(file: Path, content: bytes, time_ns: int) -> Path:
    """In place, so that its inode stays."""
    file.write_bytes(content)
    os.utime(file, ns=(time_ns, time_ns))
    return file


def test_a_file_that_looks_as_before_is_not_read_again(file, tmp_path):
    digest = FileDigests(tmp_path / "digests.json").of(file)
    written(file, b"other", LONG_AGO_NS)
    assert FileDigests(tmp_path / "digests.json").of(file) == digest


@pytest.mark.parametrize(("content", "later"), [(b"other", 1), (b"longer", 0)])
def test_another_time_or_size_makes_it_read_again(file, tmp_path, content, later):
    digests = FileDigests(tmp_path / "digests.json")
    digest = digests.of(file)
    written(file, content, LONG_AGO_NS + later)
    assert digests.of(file) == digest_of(file) != digest


def test_another_file_in_its_place_is_read(file, tmp_path):
    digests = FileDigests(tmp_path / "digests.json")
    digest = digests.of(file)
    os.replace(written(tmp_path / "new", b"other", LONG_AGO_NS), file)
    assert digests.of(file) == digest_of(file) != digest


def test_a_file_that_was_changed_just_now_is_not_remembered(file, tmp_path):
    digests, now = FileDigests(tmp_path / "digests.json"), time.time_ns()
    digests.of(written(file, b"first", now))
    written(file, b"other", now)
    assert digests.of(file) == digest_of(file)


@pytest.mark.parametrize("table", ["", "{", "[]", '{"a": 1}'])
def test_a_damaged_table_is_made_anew(file, tmp_path, table):
    (tmp_path / "digests.json").write_text(table, encoding="utf-8")
    assert FileDigests(tmp_path / "digests.json").of(file) == digest_of(file)
    assert str(file) in json.loads((tmp_path / "digests.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests.json", "model.safetensors"]

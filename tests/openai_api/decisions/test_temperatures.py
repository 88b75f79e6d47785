"""A checkpoint's temperatures are read from its decision.json, or refused by name."""

from __future__ import annotations

import json

import pytest

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.openai_api.decisions import read_temperatures


def write(folder, config):
    (folder / "decision.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return folder


def test_without_a_checkpoint_or_its_file_there_are_none(tmp_path):
    assert read_temperatures(None) == {}
    assert read_temperatures(tmp_path) == {}


@pytest.mark.parametrize("config", [{}, {"temperature": None}, {"temperature": {}}, {"labels": {"noul": ["A", "B"]}}])
def test_a_file_without_temperatures_gives_none(config, tmp_path):
    assert read_temperatures(write(tmp_path, config)) == {}


def test_temperatures_of_the_types_are_read_and_others_left(tmp_path):
    config = {"temperature": {"noul": 2, "score": 1.5, "choice": None, "box": "hot"}, "adapter": "lora"}
    assert read_temperatures(write(tmp_path, config)) == {"noul": 2.0, "score": 1.5}


@pytest.mark.parametrize("value", [0, -1, True, "1", [1], float("nan"), float("inf")])
def test_what_is_no_temperature_is_refused_by_name_and_value(value, tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        read_temperatures(write(tmp_path, {"temperature": {"choice": value}}))
    file = tmp_path / "decision.json"
    assert str(refusal.value) == f"temperature.choice in {file} must be a finite number above 0, got {value!r}."


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("[1]", "decision.json must be an object, got [1]."),
        ({"temperature": [1]}, "decision.json must be an object, got [1]."),
        ({"temperature": 1.5}, "temperature in "),
        ("{", "decision.json cannot be read as JSON: "),
        ("[" * 100_000, "decision.json cannot be read as JSON: "),
    ],
)
def test_a_file_of_the_wrong_form_is_refused(config, complaint, tmp_path):
    with pytest.raises(CheckpointError) as refusal:
        read_temperatures(write(tmp_path, config))
    assert complaint in str(refusal.value)

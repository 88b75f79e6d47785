"""The flavor's section of MLmodel is typed, versioned and searchable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.quantized_llm.quantization import parse_quantization
from mlflow_llm_plugins.quantized_llm.record import ExportRecord, FlavorRecord, WeightsRecord


@pytest.fixture
def record() -> FlavorRecord:
    quantization = parse_quantization("nf4")
    assert quantization is not None
    return FlavorRecord(
        task="llm/v1/chat",
        weights=WeightsRecord(location="hub", source="org/name", commit="c" * 40),
        quantization=quantization.completed("bfloat16").record("when loaded"),
        parameters=12,
        base_model="org/name",
        base_commit="c" * 40,
    )


def test_record_survives_mlmodel(record: FlavorRecord) -> None:
    assert FlavorRecord.parse(record.for_mlmodel()) == record


def test_record_of_a_newer_format_is_refused(record: FlavorRecord) -> None:
    with pytest.raises(CheckpointError) as caught:
        FlavorRecord.parse({**record.for_mlmodel(), "format_version": 3})

    assert str(caught.value) == (
        "This artifact has format_version 3; the installed mlflow-llm-plugins reads up to 2. Upgrade it: "
        "pip install -U mlflow-llm-plugins"
    )


def test_unknown_keys_of_the_same_format_are_left_alone(record: FlavorRecord) -> None:
    section = record.for_mlmodel()
    section["quantization"]["calibrated_on"] = "something"

    assert FlavorRecord.parse({**section, "energy": 3}) == record


def test_damaged_record_is_refused(record: FlavorRecord) -> None:
    with pytest.raises(CheckpointError) as caught:
        FlavorRecord.parse({**record.for_mlmodel(), "task": "llm/v1/poems"})

    assert str(caught.value) == (
        "The quantized_llm section of MLmodel is damaged: task: Input should be 'llm/v1/chat' or 'llm/v1/completions'."
    )


def test_params_are_strings_of_what_is_known(record: FlavorRecord) -> None:
    params = record.as_params()

    assert params["llm.quantization"] == "nf4"
    assert params["llm.bits"] == "4"
    assert params["llm.compute_dtype"] == "bfloat16"
    assert params["llm.double_quant"] == "False"
    assert params["llm.base_commit"] == "c" * 40
    assert "llm.license" not in params
    assert all(isinstance(value, str) for value in params.values())


@pytest.mark.parametrize(
    ("base_model", "name"), [("org/name", "org/name"), ("/home/me/my-model", "my-model"), (None, "quantized_llm")]
)
def test_answers_never_carry_a_local_path(record: FlavorRecord, base_model: str | None, name: str) -> None:
    assert record.model_copy(update={"base_model": base_model}).model_name == name


def test_facts_of_a_proof_keep_their_types(record: FlavorRecord) -> None:
    probe = {"is_exact": True, "tokens": 48, "sliding_window": None, "max_difference": 0.25, "top1_agreement": 1.0}
    made = record.model_copy(update={"export": ExportRecord(seconds=2, traced_dtype="float32", probe=probe)})
    read = FlavorRecord.parse(json.loads(json.dumps(made.for_mlmodel())))

    assert read.export is not None
    assert {name: repr(value) for name, value in read.export.probe.items()} == {
        name: repr(value) for name, value in probe.items()
    }
    params = read.as_params()
    assert (params["llm.export.is_exact"], params["llm.export.tokens"]) == ("True", "48")
    assert "llm.export.sliding_window" not in params


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ("openvino-int8", {"symmetric": "False"}),
        ({"method": "openvino-int4", "ratio": 0.8}, {"group_size": "128", "symmetric": "True", "ratio": "0.8"}),
        ("openvino-fp16", {}),
        ("nf4", {}),
    ],
)
def test_settings_of_openvinos_methods_are_params(
    record: FlavorRecord, quantization: Any, expected: dict[str, str]
) -> None:
    parsed = parse_quantization(quantization)
    assert parsed is not None
    quantized = parsed.completed("float32").record("when saved")
    params = record.model_copy(update={"quantization": quantized}).as_params()

    names = ("group_size", "symmetric", "ratio")
    assert {name: params[f"llm.{name}"] for name in names if f"llm.{name}" in params} == expected

"""Names and configurations of quantization methods, understood and checked before a weight is read."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from transformers import AwqConfig, BitsAndBytesConfig, FineGrainedFP8Config, QuantoConfig

from mlflow_llm_plugins import hardware
from mlflow_llm_plugins.errors import (
    HardwareError,
    InvalidInputError,
    LLMError,
    MissingDependencyError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.quantized_llm.quantization import (
    Quantization,
    as_plain,
    check_environment,
    other_settings,
    parse_quantization,
    still_to_apply,
)

BF16 = torch.bfloat16
ALLOWED = (
    "Allowed: None, 'none', 'auto', 'nf4', 'fp4', 'int8', 'openvino-fp16', 'openvino-int8', 'openvino-int4', "
    '{"method": name, setting: value, ...}, or any transformers quantization config as an object or dict.'
)


def refusal(error: type[LLMError], value: Any) -> str:
    with pytest.raises(error) as caught:
        parse_quantization(value)
    return str(caught.value)


def parsed(value: Any) -> Quantization:
    quantization = parse_quantization(value)
    assert quantization is not None
    return quantization


@pytest.mark.parametrize(
    ("value", "method", "bits"),
    [
        ("nf4", "nf4", 4),
        ("fp4", "fp4", 4),
        ("int8", "int8", 8),
        ({"method": "nf4", "bnb_4bit_use_double_quant": True}, "nf4", 4),
        ({"load_in_4bit": True}, "fp4", 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 5}, "int8", 8),
        (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), "nf4", 4),
        ({"quant_method": "gptq", "bits": 3, "group_size": 64}, "gptq", 3),
        (AwqConfig(bits=4), "awq", 4),
    ],
)
def test_names_and_configurations_are_understood(value: Any, method: str, bits: int) -> None:
    record = parsed(value).record("when saved")

    assert record.method == method
    assert record.bits == bits


@pytest.mark.parametrize("value", ["nf4", {"method": "nf4"}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_computing_type_is_the_models_unless_given(value: Any) -> None:
    assert parsed(value).for_dtype("bfloat16").to_transformers().to_dict()["bnb_4bit_compute_dtype"] == "bfloat16"


def test_computing_type_that_is_given_stays() -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="float16")

    assert parsed(config).for_dtype("bfloat16").completed("bfloat16").record("when saved").compute_dtype == "float16"


@pytest.mark.parametrize(
    "value",
    [
        "nf4",
        {"method": "int8", "llm_int8_threshold": 4.0},
        BitsAndBytesConfig(load_in_8bit=True),
        FineGrainedFP8Config(),
    ],
)
def test_plain_form_means_the_same(value: Any) -> None:
    assert parsed(as_plain(value)).to_transformers().to_dict() == parsed(value).to_transformers().to_dict()


def test_none_is_understood() -> None:
    assert parse_quantization(None) is None
    assert parsed("none").is_none


def test_unknown_name_is_answered_with_the_nearest() -> None:
    assert refusal(InvalidInputError, "nf-4") == f"Unknown quantization 'nf-4'. Did you mean 'nf4'? {ALLOWED}"


def test_unknown_name_without_a_near_one_lists_what_is_allowed() -> None:
    assert refusal(InvalidInputError, "turbo") == f"Unknown quantization 'turbo'. {ALLOWED}"


@pytest.mark.parametrize("value", [4, True, {}, {"bits": 4}, ["nf4"]])
def test_value_of_another_kind_is_refused(value: Any) -> None:
    assert refusal(InvalidInputError, value) == f"quantization={value!r} is not understood. {ALLOWED}"


def test_unknown_setting_is_answered_with_the_nearest() -> None:
    message = refusal(InvalidInputError, {"method": "nf4", "bnb_4bit_use_double_qaunt": True})

    assert message.startswith(
        "Unknown quantization setting 'bnb_4bit_use_double_qaunt'. Did you mean 'bnb_4bit_use_double_quant'? Known: "
    )


def test_setting_of_the_wrong_type_is_refused() -> None:
    quantization = parsed({"method": "nf4", "bnb_4bit_use_double_quant": "yes"})

    with pytest.raises(InvalidInputError, match="bnb_4bit_use_double_quant must be a boolean"):
        quantization.to_transformers()


@pytest.mark.parametrize("wanted", ["nf4", "int8", "none", None])
def test_full_weights_take_any_method(wanted: str | None) -> None:
    remaining = still_to_apply(parse_quantization(wanted), None)

    assert (remaining and remaining.method) == (wanted if wanted != "none" else None)


def test_weights_that_have_the_method_need_nothing() -> None:
    assert still_to_apply(parsed("nf4"), parsed({"method": "nf4", "bnb_4bit_use_double_quant": True})) is None


@pytest.mark.parametrize("wanted", ["int8", "none"])
def test_weights_are_not_quantized_twice(wanted: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        still_to_apply(parsed(wanted), parsed("nf4"))

    assert str(caught.value) == (
        f"quantization={wanted!r}, but the weights are quantized with 'nf4' already. Leave quantization out to keep "
        "them, or start from the checkpoint that is not quantized."
    )


def test_missing_package_is_answered_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    with pytest.raises(MissingDependencyError) as caught:
        check_environment(parsed("nf4"), pre_quantized=False)

    assert str(caught.value) == "quantization='nf4' needs bitsandbytes: pip install 'mlflow-llm-plugins[torch]'"


@pytest.mark.parametrize("package", ["openvino", "openvino_tokenizers", "nncf", "torch", "transformers"])
def test_missing_package_of_an_export_is_answered_with_the_pip_command(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingDependencyError) as caught:
        check_environment(parsed("openvino-int8"), pre_quantized=False)

    assert str(caught.value) == (
        f"quantization='openvino-int8' needs {package}: pip install 'mlflow-llm-plugins[openvino-export]'"
    )


def test_missing_package_of_another_method_is_named() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_environment(parsed(QuantoConfig(weights="int8")), pre_quantized=False)

    assert str(caught.value) == "quantization='quanto' needs optimum.quanto: pip install optimum-quanto"


def test_method_that_needs_another_machine_is_refused_with_the_reason() -> None:
    if torch.accelerator.is_available():
        pytest.skip("FP8 may run here")

    with pytest.raises(HardwareError) as caught:
        check_environment(parsed(FineGrainedFP8Config()), pre_quantized=False)

    assert str(caught.value).startswith("quantization='fp8' cannot run on this machine: ")


def test_method_that_needs_calibration_is_refused() -> None:
    compressed = Quantization("spqr", {"quant_method": "spqr"})

    with pytest.raises(UnsupportedFeatureError) as caught:
        check_environment(compressed, pre_quantized=False)

    assert str(caught.value) == (
        "quantization='spqr' needs calibration data and cannot be applied while loading. Quantize the model with that "
        "method's own library, then log the quantized checkpoint."
    )


@pytest.mark.parametrize(("has_avx512", "warned"), [(False, True), (True, False)])
def test_slow_processor_is_told_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_avx512: bool, warned: bool
) -> None:
    machine = hardware.Hardware(cpu=hardware.Cpu(has_avx512=has_avx512))
    monkeypatch.setattr(hardware, "probe", lambda: machine)

    with caplog.at_level(logging.WARNING):
        check_environment(parsed("int8"), pre_quantized=False)

    said = "int8 saves memory, but this CPU has no AVX-512: bitsandbytes is slower than float32 on it."
    assert any(said in message for message in caplog.messages) == warned


@pytest.mark.parametrize(
    ("wanted", "stored", "said"),
    [
        (
            {"method": "nf4", "bnb_4bit_use_double_quant": True},
            "nf4",
            "quantization='nf4' with bnb_4bit_use_double_quant=True, but the weights are quantized already, with "
            "bnb_4bit_use_double_quant=False.",
        ),
        (
            {"method": "int8", "llm_int8_threshold": 4.0},
            "int8",
            "quantization='int8' with llm_int8_threshold=4.0, but the weights are quantized already, with "
            "llm_int8_threshold=6.0.",
        ),
        (
            {"quant_method": "gptq", "bits": 3},
            {"quant_method": "gptq", "bits": 4},
            "quantization='gptq' with bits=3, but the weights are quantized already, with bits=4.",
        ),
    ],
)
def test_settings_that_differ_from_those_of_the_weights_are_refused(wanted: Any, stored: Any, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        still_to_apply(parsed(wanted), parsed(stored))

    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "wanted",
    ["nf4", {"method": "nf4", "bnb_4bit_use_double_quant": False}, {"method": "nf4", "bnb_4bit_compute_dtype": BF16}],
)
def test_settings_that_the_weights_have_change_nothing(wanted: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert still_to_apply(parsed(wanted), parsed("nf4").completed("bfloat16")) is None

    assert caplog.messages == ["The weights are quantized with 'nf4' already; they stay as they are."]


def test_name_in_upper_case_is_answered_with_the_right_one() -> None:
    assert refusal(InvalidInputError, "NF4").startswith("Unknown quantization 'NF4'. Did you mean 'nf4'?")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"method": ["nf4"]}, "Unknown quantization ['nf4']."),
        ({"method": "none", "x": 1}, "quantization='none' takes no settings, got x=1. Leave them out."),
        (
            {"method": "nf4", "bnb_4bit_quant_type": "fp4"},
            "quantization='nf4' means bnb_4bit_quant_type='nf4', got bnb_4bit_quant_type='fp4'.",
        ),
    ],
)
def test_settings_that_contradict_the_method_are_refused(value: Any, said: str) -> None:
    assert refusal(InvalidInputError, value).startswith(said)


@pytest.mark.parametrize("value", [{"load_in_4bit": False}, BitsAndBytesConfig(), {"quant_method": "bitsandbytes"}])
def test_bitsandbytes_without_a_width_is_refused(value: Any) -> None:
    assert refusal(InvalidInputError, value) == (
        "A bitsandbytes configuration must set load_in_4bit or load_in_8bit, and this one sets neither. Add one, or "
        "give the method by its name: 'nf4', 'fp4' or 'int8'."
    )


@pytest.mark.parametrize("value", ["openvino-int8", {"method": "openvino-int4", "group_size": 64}])
def test_settings_of_openvino_that_were_left_out_are_filled_in_only_when_it_is_complete(value: Any) -> None:
    given = parsed(value).config

    assert "symmetric" not in given
    assert parsed(as_plain(value)).config == given
    assert parsed(value).completed("float32").config["symmetric"] == (parsed(value).method == "openvino-int4")


@pytest.mark.parametrize(
    ("wanted", "has", "said"),
    [
        ("openvino-int8", {"symmetric": True}, None),
        ({"method": "openvino-int8", "symmetric": True}, {"symmetric": True}, None),
        (
            {"method": "openvino-int8", "symmetric": False},
            {"symmetric": True},
            ("symmetric=False", "symmetric=True"),
        ),
        (
            {"method": "openvino-int4", "group_size": 64, "ratio": 0.5},
            {"group_size": 128},
            ("group_size=64, ratio=0.5", "group_size=128, ratio=(not known)"),
        ),
        (
            {"method": "openvino-int4", "awq": True, "calibration": ["a", "b"]},
            {"awq": True, "calibration": "2 texts"},
            None,
        ),
    ],
)
def test_settings_that_an_openvino_model_lacks_are_found(wanted: Any, has: Any, said: Any) -> None:
    config = {"quant_method": "openvino", "weight_format": parsed(wanted).config["weight_format"], **has}

    assert other_settings(parsed(wanted), config) == said

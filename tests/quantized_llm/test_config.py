"""The flat configuration of an artifact: at log time, in MLmodel, and overridden at load time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import EngineSettings
from mlflow_llm_plugins.quantized_llm.config import ModelConfig


def refusal(**parts: Any) -> str:
    given = {"engine_config": None, "model_config": None, "inference_config": None, **parts}
    with pytest.raises(InvalidInputError) as caught:
        ModelConfig.at_log_time(**given)
    return str(caught.value)


def test_every_key_stands_in_mlmodel_so_that_mlflow_passes_overrides_on() -> None:
    written = ModelConfig.at_log_time({"max_new_tokens": 7}, None, None).for_mlmodel()

    assert written.pop("max_new_tokens") == 7
    assert set(written.values()) == {None}
    assert set(written) > set(EngineSettings.model_fields) - {"max_new_tokens"}
    assert {"engine", "quantization", "device_map", "dtype", "attn_implementation", "max_memory"} <= set(written)


def test_null_in_mlmodel_means_the_default() -> None:
    logged = ModelConfig.at_log_time({"max_new_tokens": 7}, None, None).for_mlmodel()

    config = ModelConfig.from_artifact({**logged, "max_queue_size": 3})

    assert config.engine_settings() == EngineSettings(max_new_tokens=7, max_queue_size=3)


def test_parts_are_one_configuration() -> None:
    config = ModelConfig.at_log_time({"max_new_tokens": 7}, {"dtype": "bfloat16"}, None)

    assert config.as_given() == {"max_new_tokens": 7, "dtype": "bfloat16"}


def test_key_that_is_given_twice_is_refused() -> None:
    message = refusal(engine_config={"max_new_tokens": 7}, model_config={"max_new_tokens": 7})

    assert message == (
        "max_new_tokens given twice, the second time in model_config. Give each key in only one of engine_config and "
        "model_config."
    )


def test_unknown_key_is_answered_with_the_nearest() -> None:
    message = refusal(engine_config={"max_new_token": 7})

    assert message.startswith(
        "engine_config: unknown key 'max_new_token'. Did you mean 'max_new_tokens'? Known keys: "
    )


def test_value_that_is_not_allowed_is_refused() -> None:
    message = refusal(model_config={"max_requests_per_batch": 0})

    assert message == "model_config: max_requests_per_batch=0: Input should be greater than or equal to 1"


def test_unknown_engine_is_answered_with_the_nearest() -> None:
    assert "engine='transformer': unknown engine. Did you mean 'transformers'?" in refusal(
        engine_config={"engine": "transformer"}
    )


def test_inference_config_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig.at_log_time(None, None, {"max_new_tokens": 7})

    assert config.max_new_tokens == 7
    assert caplog.messages == ["`inference_config` is deprecated. Please use `model_config` instead."]


@pytest.mark.parametrize("dtype", [torch.bfloat16, "torch.bfloat16", "bfloat16"])
def test_dtype_is_taken_as_torch_and_transformers_spell_it(dtype: Any) -> None:
    assert ModelConfig().overridden(dtype=dtype).dtype == "bfloat16"


def test_auto_is_the_type_of_the_checkpoint() -> None:
    assert ModelConfig().overridden(dtype="auto").dtype is None


def test_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="load_model: dtype='int4': Input should be 'float16', 'bfloat16'"):
        ModelConfig().overridden(dtype="int4")


def test_devices_from_json_become_numbers() -> None:
    assert ModelConfig.from_artifact({"max_memory": {"0": "1GiB", "cpu": "2GiB"}}).max_memory == {
        0: "1GiB",
        "cpu": "2GiB",
    }


def test_override_leaves_the_rest() -> None:
    config = ModelConfig.at_log_time({"max_new_tokens": 7, "dtype": "float16"}, None, None)

    assert config.overridden(dtype="float32", device_map=None).as_given() == {"max_new_tokens": 7, "dtype": "float32"}


@pytest.mark.parametrize("value", ["x", [1], 0])
def test_configuration_that_is_no_dictionary_is_refused(value: Any) -> None:
    assert refusal(engine_config=value) == f"engine_config must be a dictionary, got {type(value).__name__}."

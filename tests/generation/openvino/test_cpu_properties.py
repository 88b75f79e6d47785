"""What OpenVINO's CPU device is told, from the settings and the model."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.generation import EngineSettings
from mlflow_llm_plugins.generation.openvino.cpu_properties import cpu_properties
from mlflow_llm_plugins.generation.openvino.ir_description import IRDescription

GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


def ir(weight_format, group_size):
    return IRDescription(
        weight_format, group_size, None, vocab_size=256, kv_layers=(), bin_bytes=1, has_tokenizer_ir=True
    )


def test_the_library_decides_what_nobody_set():
    assert cpu_properties(ir("fp32", None), EngineSettings(num_threads=1)) == {"INFERENCE_NUM_THREADS": 1}


def test_settings_become_properties():
    settings = EngineSettings(num_threads=1, inference_precision="f32", kv_cache_precision="f32")
    assert cpu_properties(ir("int8", -1), settings, settings.kv_cache_precision) == {
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
    }


@pytest.mark.parametrize(
    ("weight_format", "group_size", "group"),
    [("int8", -1, 128), ("int8", 64, None), ("int4", 128, None), ("int4", -1, None), ("fp16", None, None)],
)
def test_activations_are_rounded_in_larger_groups_where_a_row_of_weights_has_one_scale(
    weight_format, group_size, group
):
    assert cpu_properties(ir(weight_format, group_size), EngineSettings()).get(GROUP) == group

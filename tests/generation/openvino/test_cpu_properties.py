"""What OpenVINO's CPU device is told, from the settings and the model."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import openvino
import pytest

from mlflow_llm_plugins.generation import EngineSettings
from mlflow_llm_plugins.generation.openvino.cpu_properties import cpu_properties
from mlflow_llm_plugins.generation.openvino.ir_description import IRDescription, describe_ir
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE
from mlflow_llm_plugins.generation.openvino.scorer import OpenVINOScorer
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.generation.conftest import plain_logprobs, random_prompts
from tests.models import MAX_LENGTH, byte_tokenizer, random_model

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


def test_the_exporters_own_choice_and_float32_arithmetic_stand():
    chosen = replace(ir("int8", -1), runtime_options=frozenset({GROUP}))
    assert GROUP not in cpu_properties(chosen, EngineSettings())
    assert GROUP not in cpu_properties(ir("int8", -1), EngineSettings(inference_precision="f32"))
    assert GROUP in cpu_properties(ir("int8", -1), EngineSettings(inference_precision="bf16"))


def test_runtime_options_are_read_from_the_file(ir_folder, tmp_path):
    folder = shutil.copytree(ir_folder("llama"), tmp_path / "model")
    assert describe_ir(folder / MODEL_FILE).runtime_options == frozenset()
    model = openvino.Core().read_model(folder / MODEL_FILE)
    model.set_rt_info("0", ["runtime_options", GROUP])
    openvino.save_model(model, tmp_path / MODEL_FILE, compress_to_fp16=False)
    assert describe_ir(tmp_path / MODEL_FILE).runtime_options == {GROUP}


def test_larger_groups_move_log_probabilities_hardly_more_than_the_librarys_own(tmp_path):
    model = random_model("llama", hidden_size=192, intermediate_size=256)
    export_model(model, byte_tokenizer(), tmp_path, OpenVINORecipe(weight_format="int8"))
    properties = cpu_properties(describe_ir(tmp_path / MODEL_FILE), EngineSettings(num_threads=1), "f32")
    assert properties.pop(GROUP) == 128
    default, larger = (mean_difference(model, tmp_path, {**properties, **more}) for more in ({}, {GROUP: 128}))
    assert larger != default
    assert larger < 1.2 * default


def mean_difference(model, folder, properties):
    scorer = OpenVINOScorer(folder, properties, max_length=MAX_LENGTH, max_cached_tokens=0)
    texts = random_prompts(100, 100, 100)
    found = np.concatenate(scorer.score(texts))
    scorer.close()
    return np.abs(found - np.concatenate([plain_logprobs(model, text) for text in texts])).mean()

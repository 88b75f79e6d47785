"""Every architecture answers as torch does, or is refused by name."""

from __future__ import annotations

import pytest
import torch

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.openvino_export.export import check_exportable, export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import SLIDING_WINDOW, byte_tokenizer, random_model
from tests.quantized_llm.openvino_export.architectures import NAMES, QUICK, REFUSED, build
from tests.quantized_llm.openvino_export.exported import logprobs_of, random_ids, torch_logprobs

TOLERANCE = 1e-3
each_architecture = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)


@each_architecture
def test_the_exported_model_answers_as_torch_does(name, export):
    model = build(name)
    folder, report = export(model)
    assert report.probe.is_exact
    assert report.probe.uncompressed_difference < TOLERANCE
    assert report.probe.paged_difference < TOLERANCE
    if report.probe.sliding_window:
        assert report.probe.tokens >= 2 * SLIDING_WINDOW
    _check_padded_batch(model, folder)


def _check_padded_batch(model, folder):
    """Two rows of different length in one batch, padded on the right, against each alone."""
    ids, lengths = random_ids(2, 41), (41, 23)
    mask = torch.tensor([[1] * length + [0] * (41 - length) for length in lengths])
    found = logprobs_of(folder, ids * mask, mask)
    for row, length in enumerate(lengths):
        expected = torch_logprobs(model, ids[row : row + 1, :length])[0]
        assert (found[row, :length] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_expressed_is_refused_by_name_and_reason(kind, tmp_path):
    model = random_model(kind)
    with pytest.raises(UnsupportedFeatureError, match=REFUSED[kind]) as refusal:
        export_model(model, byte_tokenizer(), tmp_path, OpenVINORecipe(weight_format="none"))
    assert str(refusal.value).startswith(model.config.model_type)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_config_file_is_refused_as_its_model_is(kind, tmp_path):
    config = random_model(kind).config
    with pytest.raises(UnsupportedFeatureError, match=REFUSED[kind]):
        check_exportable(config.to_diff_dict() | {"model_type": config.model_type})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gemma2"}, "softcap"),  # a default, which a config.json may leave out
        ({"model_type": "deepseek_v3"}, "latent states"),
        ({"model_type": "falcon", "alibi": True}, "alibi"),
        ({"model_type": "gemma3n_text"}, "share the keys and values"),
        ({"model_type": "qwen3_next"}, "linear_attention"),
        ({"model_type": "lfm2", "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, "layers of conv"),
        ({"model_type": "diffllama"}, "difference of two"),
        ({"model_type": "doge"}, "depends on the tokens"),
        ({"model_type": "jetmoe"}, "mixture of experts"),
        ({"model_type": "clip"}, "no causal language model"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}, "export the original"),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else None,
)
def test_a_configuration_alone_is_refused_by_name_and_reason(config, reason):
    with pytest.raises(UnsupportedFeatureError, match=f"^{config['model_type']} cannot be exported.*{reason}"):
        check_exportable(config)


def test_a_configuration_that_transformers_cannot_read_is_no_matter_of_openvino():
    with pytest.raises(CheckpointError, match="'llama'"):
        check_exportable({"model_type": "llama", "num_hidden_layers": "many"})


@pytest.mark.parametrize("name", NAMES)
def test_a_config_file_of_what_can_be_exported_passes(name):
    config = build(name).config
    check_exportable(config.to_dict())
    check_exportable(config)


def test_code_of_a_checkpoint_is_left_to_the_probe():
    check_exportable({"model_type": "someones_own", "architectures": ["SomeonesForCausalLM"]})

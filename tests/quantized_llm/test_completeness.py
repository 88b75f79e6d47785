"""Weights that are not those of the model are refused, when saving and when loading."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint
from mlflow_llm_plugins.quantized_llm.weights import check_weights
from tests.models import KINDS, byte_tokenizer, random_model, save_checkpoint

CAUSAL_KINDS = sorted(set(KINDS) - {"t5", "bert"})


def without_a_layer(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if "layers.1." not in name}


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"wrapped.{name}": weight for name, weight in weights.items()}


def cut(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight[:-1].clone() if "up_proj" in name else weight for name, weight in weights.items()}


def change_weights(folder: Path, change: Callable[..., dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without_a_layer,
            "lacks 9 of the weights of LlamaForCausalLM: model.layers.1.input_layernorm.weight, "
            "model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight and 6 more. They would be",
        ),
        (renamed, "but has wrapped.model.embed_tokens.weight, "),
        (cut, "model.layers.0.mlp.up_proj.weight has the shape (383, 128), LlamaForCausalLM needs (384, 128)."),
    ],
)
@pytest.mark.parametrize("arguments", [{}, {"quantization": "int8"}, {"save_pretrained": False}])
def test_weights_of_another_model_are_refused_when_saving(
    copied: Path, tmp_path: Path, change: Any, message: str, arguments: dict[str, Any]
) -> None:
    change_weights(copied, change)

    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(copied, tmp_path / "artifact", **arguments)

    assert message in caught.value.message


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (None, r"lacks 9 of the weights of LlamaForCausalLM: model\.layers\.1\."),
        ("nf4", "quantized weights are missing"),
        ("int8", "quantized weights are missing"),
    ],
)
def test_weights_that_are_missing_are_refused_when_loading(
    checkpoint: Path, tmp_path: Path, quantization: str | None, message: str
) -> None:
    quantized_llm.save_model(checkpoint, tmp_path / "artifact", quantization=quantization)
    change_weights(tmp_path / "artifact/model", without_a_layer)

    with pytest.raises(MlflowException, match=message):
        quantized_llm.load_model(str(tmp_path / "artifact"))


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_whole_checkpoints_of_every_architecture_are_complete(kind: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save_checkpoint(tmp_path, random_model(kind)))

    check_weights(checkpoint, trust_remote_code=False)  # raises what the next test expects

    assert set(AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)[1]["missing_keys"]) == set()


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_a_missing_weight_of_every_architecture_is_found(kind: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, random_model(kind))
    change_weights(tmp_path, lambda weights: {name: weights[name] for name in sorted(weights)[:-1]})

    with pytest.raises(CheckpointError):
        check_weights(Checkpoint.open(tmp_path), trust_remote_code=False)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_weights_that_could_not_be_loaded_again_are_not_saved(tmp_path: Path, quantization: str) -> None:
    save_checkpoint(tmp_path / "llama4", random_model("llama4"), byte_tokenizer())

    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(tmp_path / "llama4", tmp_path / "artifact", quantization=quantization)

    assert caught.value.message == (
        "A Llama4ForCausalLM that is quantized with bitsandbytes can be saved but not loaded again: transformers "
        "would look for model.layers.0.feed_forward.experts.0.down_proj.weight, "
        "model.layers.0.feed_forward.experts.0.gate_proj.weight, model.layers.0.feed_forward.experts.0.up_proj.weight "
        "and 21 more. Log it as it is and quantize when it is loaded: engine_config={'quantization': ...}, or "
        "save_pretrained=False."
    )


@pytest.mark.parametrize(("kind", "warned"), [("mixtral", True), ("llama", False)])
def test_quantizing_a_small_part_of_the_model_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, warned: bool
) -> None:
    save_checkpoint(tmp_path / kind, random_model(kind), byte_tokenizer())

    with caplog.at_level(logging.WARNING):
        quantized_llm.save_model(tmp_path / kind, tmp_path / "artifact", quantization="nf4")

    assert (
        "Only 9% of the parameters of MixtralForCausalLM were quantized with nf4: bitsandbytes replaces torch's own "
        "linear layers, not embeddings, and not experts that are stored together." in caplog.messages
    ) == warned


@pytest.mark.parametrize(
    "change",
    [{"model_type": "lama"}, {"model_type": None}, {"vocab_size": "abc"}, {"num_attention_heads": 0}],
)
def test_configuration_that_describes_no_model_is_refused_before_anything_is_written(
    copied: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    file = copied / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(copied, tmp_path / "artifact", tokenizer=byte_tokenizer())

    assert caught.value.message.startswith(f"transformers cannot build the model that {file} describes: ")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(("key", "value"), [("temperature", 0.6), ("top_k", 5), ("early_stopping", True)])
def test_settings_without_effect_on_generation_do_not_stop_saving(
    llama: Any, tokenizer: Any, tmp_path: Path, key: str, value: float
) -> None:
    setattr(llama.generation_config, key, value)

    quantized_llm.save_model(llama, tmp_path / "artifact", tokenizer=tokenizer)

    assert key not in json.loads((tmp_path / "artifact/model/generation_config.json").read_text())
    assert getattr(llama.generation_config, key) == value


def test_settings_of_generation_that_contradict_one_another_are_refused(
    llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    llama.generation_config.num_return_sequences = 3

    with pytest.raises(MlflowException, match="The model's generation_config contradicts itself: "):
        quantized_llm.save_model(llama, tmp_path / "artifact", tokenizer=tokenizer)

"""What was logged is what is loaded: the same bits, whatever the method, the place and the kind of input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, pipeline

from mlflow_llm_plugins import quantized_llm
from tests.models import random_model

CONFIGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def quantized_directly(checkpoint: Path, method: str, dtype: str, **settings: Any) -> PreTrainedModel:
    """What transformers itself makes of the checkpoint."""
    computing = {"bnb_4bit_compute_dtype": dtype} if method != "int8" else {}
    config = BitsAndBytesConfig(**CONFIGS[method], **computing, **settings)
    return AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config, dtype=dtype)


def assert_same(loaded: PreTrainedModel, expected: PreTrainedModel, token_ids: torch.Tensor) -> None:
    assert loaded.get_memory_footprint() == expected.get_memory_footprint()
    with torch.no_grad():
        assert torch.equal(loaded(token_ids).logits, expected(token_ids).logits)


@pytest.mark.parametrize("save_pretrained", [True, False], ids=["by_value", "by_reference"])
@pytest.mark.parametrize(
    ("method", "dtype"), [("nf4", "float32"), ("nf4", "bfloat16"), ("fp4", "float32"), ("int8", "float32")]
)
def test_quantized_model_comes_back_bit_for_bit(
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
    token_ids: torch.Tensor,
    method: str,
    dtype: str,
    save_pretrained: bool,
) -> None:
    source = checkpoints(dtype)
    quantized_llm.save_model(source, tmp_path / "artifact", quantization=method, save_pretrained=save_pretrained)

    loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model")

    assert_same(loaded, quantized_directly(source, method, dtype), token_ids)


def test_double_quantization_and_threshold_reach_bitsandbytes(
    checkpoint: Path, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    double = {"method": "nf4", "bnb_4bit_use_double_quant": True}
    threshold = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.5)
    quantized_llm.save_model(checkpoint, tmp_path / "double", quantization=double)
    quantized_llm.save_model(checkpoint, tmp_path / "threshold", quantization=threshold)

    loaded = quantized_llm.load_model(str(tmp_path / "double"), return_type="model")
    expected = quantized_directly(checkpoint, "nf4", "float32", bnb_4bit_use_double_quant=True)
    assert_same(loaded, expected, token_ids)
    with torch.no_grad():
        plain = quantized_directly(checkpoint, "nf4", "float32")(token_ids).logits
        assert not torch.equal(loaded(token_ids).logits, plain)

    loaded = quantized_llm.load_model(str(tmp_path / "threshold"), return_type="model")
    assert_same(loaded, quantized_directly(checkpoint, "int8", "float32", llm_int8_threshold=0.5), token_ids)


@pytest.mark.parametrize("how", ["model", "pipeline", "dict", "directory"])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_every_kind_of_input_gives_the_same_artifact(
    llama: PreTrainedModel,
    tokenizer: Any,
    checkpoint: Path,
    tmp_path: Path,
    token_ids: torch.Tensor,
    how: str,
    quantization: str | None,
) -> None:
    given = {
        "model": llama,
        "pipeline": pipeline("text-generation", model=llama, tokenizer=tokenizer),
        "dict": {"model": llama, "tokenizer": tokenizer},
        "directory": str(checkpoint),
    }[how]
    beside = {"tokenizer": tokenizer} if how == "model" else {}

    quantized_llm.save_model(given, tmp_path / "artifact", quantization=quantization, **beside)
    loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="components")

    expected = quantized_directly(checkpoint, "nf4", "float32") if quantization else llama
    assert_same(loaded["model"], expected, token_ids)
    assert loaded["tokenizer"]("What is it?").input_ids == tokenizer("What is it?").input_ids
    assert loaded["tokenizer"].chat_template == tokenizer.chat_template


def test_tokenizer_is_found_beside_what_the_model_was_loaded_from(checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    quantized_llm.save_model(model, tmp_path / "artifact")

    loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="components")
    assert loaded["tokenizer"]("Hello").input_ids == AutoTokenizer.from_pretrained(checkpoint)("Hello").input_ids


@pytest.mark.parametrize("save_pretrained", [True, False], ids=["by_value", "by_reference"])
def test_model_that_is_quantized_in_memory_stays_quantized(
    checkpoint: Path, tmp_path: Path, token_ids: torch.Tensor, save_pretrained: bool
) -> None:
    model = quantized_directly(checkpoint, "nf4", "float32")

    quantized_llm.save_model(model, tmp_path / "artifact", save_pretrained=save_pretrained)

    assert_same(quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model"), model, token_ids)


@pytest.mark.parametrize("double", [False, True], ids=["plain", "double"])
def test_quantized_model_that_has_run_is_saved_as_it_answers(
    checkpoint: Path, tokenizer: Any, tmp_path: Path, token_ids: torch.Tensor, double: bool
) -> None:
    model = quantized_directly(checkpoint, "nf4", "float32", bnb_4bit_use_double_quant=double)
    with torch.no_grad():
        before = model(token_ids).logits  # on some CPUs this rearranges the weights in place

        quantized_llm.save_model(model, tmp_path / "artifact", tokenizer=tokenizer)

        assert torch.equal(model(token_ids).logits, before)
        loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model")
        assert torch.equal(loaded(token_ids).logits, before)


@pytest.mark.parametrize("quantization", [None, "nf4"], ids=["kept", "asked_for_again"])
def test_quantized_checkpoint_is_kept_as_it_is(
    checkpoint: Path, tokenizer: Any, tmp_path: Path, token_ids: torch.Tensor, quantization: str | None
) -> None:
    model = quantized_directly(checkpoint, "nf4", "float32")
    model.save_pretrained(tmp_path / "quantized")
    tokenizer.save_pretrained(tmp_path / "quantized")

    quantized_llm.save_model(tmp_path / "quantized", tmp_path / "artifact", quantization=quantization)

    weights = "model.safetensors"
    assert (tmp_path / "artifact/model" / weights).read_bytes() == (tmp_path / "quantized" / weights).read_bytes()
    assert_same(quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model"), model, token_ids)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral", "gemma3", "mamba"])
def test_other_architectures_come_back_bit_for_bit(
    kind: str, tokenizer: Any, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    model = random_model(kind)

    quantized_llm.save_model(model, tmp_path / "artifact", tokenizer=tokenizer)

    assert_same(quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model"), model, token_ids)


def test_sharded_checkpoint_is_logged_and_loaded(
    llama: PreTrainedModel, tokenizer: Any, tmp_path: Path, token_ids: torch.Tensor
) -> None:
    llama.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1

    quantized_llm.save_model(tmp_path / "shards", tmp_path / "artifact")

    assert_same(quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model"), llama, token_ids)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_model_that_is_passed_is_not_changed(
    llama: PreTrainedModel, tokenizer: Any, tmp_path: Path, quantization: str | None
) -> None:
    llama.train()
    llama.config.dtype = None  # save_pretrained notes the type of the weights here
    llama.config.architectures = None

    def state() -> dict[str, Any]:
        return {
            "weights": {name: (p.data_ptr(), p.dtype, p.device, p.clone()) for name, p in llama.named_parameters()},
            "config": llama.config.to_dict(),
            "generation_config": llama.generation_config.to_dict(),
            "training": [module.training for module in llama.modules()],
            "attributes": set(vars(llama)),
            "chat_template": tokenizer.chat_template,
        }

    before = state()
    quantized_llm.save_model(
        llama,
        tmp_path / "artifact",
        tokenizer=tokenizer,
        quantization=quantization,
        generation_config={"temperature": 0.5},
        chat_template="{{ messages[0]['content'] }}",
    )
    after = state()

    weights_before, weights_after = before.pop("weights"), after.pop("weights")
    assert after == before
    assert weights_after.keys() == weights_before.keys()
    for name, (*where, values) in weights_before.items():
        *where_after, values_after = weights_after[name]
        assert where_after == where
        assert torch.equal(values_after, values)


def test_artifact_stays_whole_when_the_checkpoint_is_deleted(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")

    quantized_llm.save_model(tmp_path / "copy", tmp_path / "artifact")
    shutil.rmtree(tmp_path / "copy")

    assert quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model").num_parameters() > 0

"""Whatever is given as the model is understood or refused in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, pipeline

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError, LLMError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.source import find_source
from tests.models import random_model

ALLOWED = (
    "Give a Hub id, a checkpoint directory, a transformers model, a text-generation pipeline, or "
    '{"model": model, "tokenizer": tokenizer}.'
)


def refusal(error: type[LLMError], model: Any, **arguments: Any) -> str:
    with pytest.raises(error) as caught:
        find_source(model, **arguments)
    return str(caught.value)


def test_directory_is_its_own_origin(checkpoint: Path) -> None:
    source = find_source(checkpoint)

    assert source.base_model == str(checkpoint)
    assert source.dtype == "float32"
    assert source.model is None


def test_relative_directory_is_made_absolute(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)

    assert find_source(checkpoint.name).base_model == str(checkpoint)


def test_tokenizer_may_be_a_directory(llama: Any, checkpoint: Path, tokenizer: Any) -> None:
    assert find_source(llama, tokenizer=str(checkpoint)).tokenizer("Hi").input_ids == tokenizer("Hi").input_ids


@pytest.mark.parametrize("name", ["./missing", "/no/such/dir", "a/b/c", "two words", ""])
def test_name_that_is_neither_directory_nor_hub_id_is_refused(name: str) -> None:
    assert (
        refusal(InvalidInputError, name)
        == f"model={name!r} is neither a directory that exists nor a Hub id. {ALLOWED}"
    )


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()

    assert "is neither a directory that exists nor a Hub id." in refusal(InvalidInputError, tmp_path / "model.gguf")


def test_object_of_another_kind_is_refused() -> None:
    assert refusal(InvalidInputError, 3.5) == f"model is a float, which cannot be logged. {ALLOWED}"


def test_dictionary_with_other_keys_is_refused(llama: Any) -> None:
    assert refusal(InvalidInputError, {"model": llama, "processor": None}) == (
        "A dictionary must have the keys 'model' and 'tokenizer', got ['model', 'processor']."
    )


def test_pipeline_for_another_task_is_refused(tokenizer: Any) -> None:
    bert = pipeline("fill-mask", model=random_model("bert"), tokenizer=_with_mask(tokenizer))

    assert refusal(InvalidInputError, bert) == "A pipeline's task must be 'text-generation', got 'fill-mask'."


def test_encoder_in_memory_is_refused(tokenizer: Any) -> None:
    message = refusal(CheckpointError, random_model("bert"), tokenizer=tokenizer)

    assert message.startswith(
        "The BertForMaskedLM in memory is a 'BertForMaskedLM' model, not a causal language model."
    )


def test_adapter_must_be_merged_first(llama: Any, tokenizer: Any) -> None:
    adapted = get_peft_model(llama, LoraConfig(target_modules=["q_proj"]))

    assert refusal(UnsupportedFeatureError, adapted, tokenizer=tokenizer) == (
        "PeftModel has a PEFT adapter. Merge it first: model = model.merge_and_unload()."
    )


def test_model_made_in_memory_needs_a_tokenizer(llama: Any) -> None:
    assert refusal(InvalidInputError, llama) == (
        "No tokenizer given, and none can be found beside the LlamaForCausalLM in memory, whose name_or_path is ''. "
        "Give one: tokenizer=AutoTokenizer.from_pretrained(...)."
    )


def test_directory_without_a_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, tmp_path)

    message = refusal(CheckpointError, tmp_path)

    assert message.startswith(f"No tokenizer could be loaded from {tmp_path}: ")
    assert message.endswith(
        "Give one: tokenizer=AutoTokenizer.from_pretrained(...), or a Hub id or directory that has one."
    )


def test_object_that_is_no_tokenizer_is_refused(llama: Any) -> None:
    assert refusal(InvalidInputError, llama, tokenizer=len) == (
        "tokenizer must be a transformers tokenizer, a Hub id or a directory, got builtin_function_or_method."
    )


def test_slow_tokenizer_is_refused(llama: Any) -> None:
    from transformers import ByT5Tokenizer

    assert refusal(CheckpointError, llama, tokenizer=ByT5Tokenizer()) == (
        "ByT5Tokenizer is a slow tokenizer; a fast one is needed. Load it with AutoTokenizer.from_pretrained(...), "
        "which converts most (some need `pip install sentencepiece`)."
    )


def test_two_different_tokenizers_are_refused(llama: Any, tokenizer: Any, checkpoint: Path) -> None:
    given = {"model": llama, "tokenizer": tokenizer}

    assert refusal(InvalidInputError, given, tokenizer=str(checkpoint)) == (
        "Two tokenizers given: tokenizer=, and the one beside the model. Give one of them."
    )


def test_revision_of_a_directory_is_refused(checkpoint: Path) -> None:
    assert refusal(InvalidInputError, checkpoint, revision="main") == (
        f"revision='main' is for Hub ids; {str(checkpoint)!r} is a directory. Leave it out."
    )


def test_revision_of_a_model_made_in_memory_is_refused(llama: Any, tokenizer: Any) -> None:
    assert refusal(InvalidInputError, llama, tokenizer=tokenizer, revision="v1") == (
        "revision='v1' is for Hub ids; the model's name_or_path is ''."
    )


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_remote_code_needs_a_pinned_commit(revision: str | None) -> None:
    assert refusal(InvalidInputError, "org/name", revision=revision, trust_remote_code=True) == (
        "trust_remote_code=True runs Python code of 'org/name', so it needs a pinned revision: the 40 hexadecimal "
        f"digits of a commit that you have read, got revision={revision!r}. "
        "See https://huggingface.co/org/name/commits/main"
    )


def test_reference_to_a_model_made_in_memory_is_refused(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        find_source(llama, tokenizer=tokenizer, by_reference=True).reference()

    assert str(caught.value) == (
        "save_pretrained=False needs a model that has a place to be loaded from, and this one is only in memory "
        "(name_or_path is ''). Leave save_pretrained at True."
    )


def _with_mask(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, mask_token="<|user|>", pad_token="<|pad|>"
    )


@pytest.mark.parametrize("name", ["/no/such/dir", "a/b/c"])
def test_tokenizer_that_is_neither_directory_nor_hub_id_is_refused(checkpoint: Path, name: str) -> None:
    assert refusal(InvalidInputError, checkpoint, tokenizer=name) == (
        f"tokenizer={name!r} is neither a directory that exists nor a Hub id. Give one of them, or a tokenizer: "
        "tokenizer=AutoTokenizer.from_pretrained(...)."
    )


def test_damaged_request_defaults_are_named(checkpoint: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copied / "generation_config.json").write_text("{")

    assert refusal(CheckpointError, copied).startswith(f"{copied / 'generation_config.json'} is damaged: ")


def test_code_of_a_model_in_memory_must_be_trusted(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(llama.config), "model_type", "own-llama")
    llama.config.auto_map = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}

    assert refusal(CheckpointError, llama, tokenizer=tokenizer) == (
        "The LlamaForCausalLM in memory is a 'own-llama' model that only its own Python code knows, and that code "
        "must run again when it is loaded. Pass trust_remote_code=True."
    )


def test_reference_warns_that_changes_in_memory_are_not_kept(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find_source(LlamaForCausalLM.from_pretrained(checkpoint)).reference()

    said = f"The weights in memory are not saved: {checkpoint} is loaded instead, without what was changed since."
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [said]

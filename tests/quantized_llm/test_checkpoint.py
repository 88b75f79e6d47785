"""A folder that cannot be used is refused in words, before a weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint, read_config
from tests.models import random_model

NEEDS_CAUSAL = (
    "This flavor takes models that continue a text, such as LlamaForCausalLM, Qwen3ForCausalLM or GPT2LMHeadModel."
)


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    return str(caught.value)


def test_whole_checkpoint_tells_its_type_and_size(checkpoints: Callable[[str], Path]) -> None:
    checkpoint = Checkpoint.open(checkpoints("bfloat16"))

    assert checkpoint.dtype == "bfloat16"
    assert checkpoint.weight_bytes == (checkpoints("bfloat16") / "model.safetensors").stat().st_size
    assert checkpoint.architecture == "LlamaForCausalLM"


def test_type_comes_from_the_weights_where_the_configuration_has_none(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(checkpoints("bfloat16"), tmp_path / "copy"))
    config = json.loads((copied / "config.json").read_text())
    del config["dtype"]
    (copied / "config.json").write_text(json.dumps(config))

    assert Checkpoint.open(copied).dtype == "bfloat16"


def test_directory_without_a_configuration_is_no_checkpoint(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path} is not a checkpoint: it has no config.json. Give a directory as "
        "`model.save_pretrained(directory)` writes it, or the Hub id of one."
    )


def test_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").touch()

    assert "it has no config.json (GGUF files such as model-q4.gguf are not read)." in refusal(tmp_path)


def test_adapter_without_its_base_is_explained(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    assert "is a PEFT adapter; merge it into its base model first, with `merge_and_unload()`." in refusal(tmp_path)


def test_configuration_without_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()

    assert refusal(copied) == (
        f"{copied} has no weights: neither model.safetensors nor model.safetensors.index.json. "
        "`model.save_pretrained(directory)` writes them."
    )


def test_checkpoint_with_only_pickled_weights_is_refused(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")

    assert refusal(copied) == (
        f"{copied} has its weights only as pickles (pytorch_model.bin), which can run code when they are read. "
        "Only safetensors are read: load the model where you trust it and call `model.save_pretrained(directory)`, "
        "which writes safetensors."
    )


@pytest.mark.parametrize(("there", "missing"), [("xml", "bin"), ("bin", "xml")])
def test_half_an_openvino_model_is_told_with_the_file_that_is_missing(copied: Path, there: str, missing: str) -> None:
    (copied / "model.safetensors").unlink()
    for name in (f"openvino_model.{there}", "openvino_tokenizer.bin", "openvino_detokenizer.bin"):
        (copied / name).touch()

    assert refusal(copied) == (
        f"{copied} has openvino_model.{there} without openvino_model.{missing}: an OpenVINO model is both, side by "
        "side. Copy or download the missing file, too, or export the model again."
    )


def test_tokenizers_of_openvino_are_no_pickles(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "openvino_detokenizer.bin").touch()

    assert " has no weights: neither model.safetensors nor" in refusal(copied)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 10_000, -1])
def test_truncated_weights_are_found_before_loading(copied: Path, keep: int) -> None:
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])

    message = refusal(copied)

    assert message.startswith(f"{file} is damaged: ")
    assert message.endswith("Copy or download it again.")


def test_truncation_is_told_in_bytes(copied: Path) -> None:
    file = copied / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])

    assert refusal(copied) == (
        f"{file} is damaged: it has {size - 10:,} bytes, its header promises {size:,}. Copy or download it again."
    )


def test_overwritten_header_is_found(copied: Path) -> None:
    file = copied / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)

    assert refusal(copied) == f"{file} is damaged: it is no safetensors file, or cut off. Copy or download it again."


def test_git_lfs_pointer_is_recognised(copied: Path) -> None:
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")

    assert "is damaged: it is a git-LFS pointer, not the file itself." in refusal(copied)


def test_missing_shard_is_named(llama: Any, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path, max_shard_size="500KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()

    assert refusal(tmp_path) == (
        f"{shard} is missing, but model.safetensors.index.json beside it names it. Copy or download it again."
    )


def test_damaged_configuration_is_named(copied: Path) -> None:
    (copied / "config.json").write_text("{")

    assert refusal(copied).startswith(f"{copied / 'config.json'} is damaged: ")


def test_encoder_is_refused(tmp_path: Path) -> None:
    random_model("bert").save_pretrained(tmp_path)

    assert refusal(tmp_path) == f"{tmp_path} is a 'BertForMaskedLM' model, not a causal language model. {NEEDS_CAUSAL}"


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    random_model("t5").save_pretrained(tmp_path)

    assert refusal(tmp_path) == (
        f"{tmp_path} is a 'T5ForConditionalGeneration' model, an encoder-decoder. {NEEDS_CAUSAL}"
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, "a 'LlamaModel' model"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "a 'BertLMHeadModel' model"),
        ({"model_type": "vit"}, "a 'vit' model"),
        ({}, "of an unknown kind"),
    ],
)
def test_models_that_cannot_continue_a_text_are_refused(tmp_path: Path, config: dict[str, Any], kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path, "org/name")

    assert str(caught.value) == f"org/name is {kind}, not a causal language model. {NEEDS_CAUSAL}"


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
        {"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True},
        {"model_type": "mistral"},
    ],
)
def test_causal_models_are_accepted(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert read_config(tmp_path) == config


@pytest.mark.parametrize("content", ["[]", "null", '"x"'])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_file_that_is_no_object_is_damaged(copied: Path, name: str, content: str) -> None:
    (copied / "model.safetensors").unlink()
    (copied / name).write_text(content)

    assert refusal(copied) == (
        f"{copied / name} is damaged: it must be a JSON object, got {content}. Copy or download it again."
    )


@pytest.mark.parametrize("index", [{}, {"weight_map": [1]}, {"weight_map": {}}, {"weight_map": {"a": 1}}])
def test_index_without_files_is_damaged(copied: Path, index: dict[str, Any]) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))

    assert "model.safetensors.index.json is damaged: it has no weight_map from weights to files." in refusal(copied)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/model.safetensors", ".."])
def test_index_that_leads_out_of_the_folder_is_refused(copied: Path, name: str) -> None:
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    assert f"is damaged: {name!r} is no file beside it." in refusal(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": "LlamaForCausalLM"},
            "has architectures='LlamaForCausalLM'; it must be a list, as [\"LlamaForCausalLM\"].",
        ),
        ({"quantization_config": [1]}, "has quantization_config=[1]; it must be an object."),
    ],
)
def test_field_of_the_wrong_type_is_named(copied: Path, change: dict[str, Any], message: str) -> None:
    file = copied / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    assert refusal(copied) == f"{file} {message}"


@pytest.mark.parametrize("header", [[], 3, {"a": 1}, {"a": {}}, {"a": {"data_offsets": "x"}}])
def test_header_that_is_no_table_of_tensors_is_damaged(copied: Path, header: Any) -> None:
    content = json.dumps(header).encode()
    (copied / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)

    assert "is damaged: it is no safetensors file, or cut off." in refusal(copied)

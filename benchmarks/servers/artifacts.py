"""The same random weights in the form that each server wants.

`python -m benchmarks.servers.artifacts NAME MODEL FOLDER` writes `FOLDER/NAME`, and before that `FOLDER/checkpoint`
where it is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.models import SHAPES, Shape, byte_level_tokenizer, random_model
from benchmarks.served.loads import Wording

CHECKPOINT = "checkpoint"
WORDING = "wording.json"
EXPORTS = "exports"  # folder, beside the artifacts
OPENVINO_METHODS = {f"ours-openvino-{name}": f"openvino-{name}" for name in ("int8", "int4", "fp16")}
UNCACHED = "-uncached"  # ends the name of an artifact that shares no prefixes
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def export_cache(artifacts: Path) -> dict[str, str]:
    """The environment in which exports of these artifacts are looked for and kept."""
    from mlflow_llm_plugins.quantized_llm.export_cache import FOLDER_VARIABLE

    return {FOLDER_VARIABLE: str(artifacts / EXPORTS)}


def save_chat_checkpoint(shape: Shape, folder: Path) -> None:
    """Write a model that answers in whole words and never ends by itself, its tokenizer, and the words."""
    model, tokenizer = random_model(shape, "cpu"), chat_tokenizer(shape.vocabulary)
    wording = wording_of(tokenizer)
    _silence_all_but(model, {tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in wording.words})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    wording.write(folder / WORDING)


def chat_tokenizer(vocabulary: int) -> Any:
    """A tokenizer that reads each word that it has as one token, and other text byte by byte."""
    tokenizer = byte_level_tokenizer(vocabulary)
    tokenizer.backend_tokenizer.model.ignore_merges = True
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def wording_of(tokenizer: Any) -> Wording:
    pieces = sorted(piece for piece in tokenizer.get_vocab() if piece.startswith("Ġ") and piece[1:].isalpha())
    words = tuple(piece[1:] for piece in pieces if piece[1:].isascii())
    question = {"role": "user", "content": words[0]}
    alone = _length(tokenizer, [question])
    behind = _length(tokenizer, [{"role": "system", "content": words[0]}, question])
    return Wording(words, template_tokens=alone - 1, system_tokens=behind - alone - 1)


def _length(tokenizer: Any, chat: list[dict[str, str]]) -> int:
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return len(tokenizer(rendered)["input_ids"])


def _silence_all_but(model: Any, ids: set[int]) -> None:
    """Give the other tokens the logit 0, which is far from the best one.

    An end token would make answers shorter on some servers, and the bytes of half a character are held back.
    """
    import torch

    silent = [number for number in range(model.config.vocab_size) if number not in ids]
    with torch.no_grad():
        model.get_output_embeddings().weight[silent] = 0


def save_stock(shape: Shape, folder: Path) -> None:
    """As `mlflow.transformers` saves a pipeline for chats."""
    import mlflow
    from transformers import pipeline

    answering = pipeline("text-generation", model=str(folder / CHECKPOINT), device="cpu")
    # The requirements are given, as finding them out needs torchvision; they are not read with --env-manager local.
    mlflow.transformers.save_model(
        answering, folder / "stock", task="llm/v1/chat", pip_requirements=["mlflow", "torch", "transformers"]
    )


def save_ours(shape: Shape, folder: Path, name: str, quantization: str | None, **engine_config: Any) -> None:
    from mlflow_llm_plugins import quantized_llm

    quantized_llm.save_model(
        str(folder / CHECKPOINT),
        folder / name,
        quantization=quantization,
        task="llm/v1/chat",
        bundle_plugin=False,
        engine_config=engine_config or None,
    )


def save_ours_openvino(shape: Shape, folder: Path, name: str, **engine_config: Any) -> None:
    """Ordinary weights for the engine `openvino`; exported here, so that no measured process does that."""
    from mlflow_llm_plugins import quantized_llm

    save_ours(shape, folder, name, None, engine="openvino", **engine_config)
    quantized_llm.load_model(str(folder / name), return_type="model")


def save_gguf(shape: Shape, folder: Path) -> None:
    from benchmarks.servers.gguf_file import write_gguf

    write_gguf(folder / CHECKPOINT, folder / "gguf")


ARTIFACTS: dict[str, Callable[[Shape, Path], None]] = {
    CHECKPOINT: lambda shape, folder: save_chat_checkpoint(shape, folder / CHECKPOINT),
    "stock": save_stock,
    "gguf": save_gguf,
    "ours": partial(save_ours, name="ours", quantization=None),
    "ours-nf4": partial(save_ours, name="ours-nf4", quantization="nf4"),
    "ours-int8": partial(save_ours, name="ours-int8", quantization="int8"),
    "ours-openvino": partial(save_ours_openvino, name="ours-openvino"),
    **{name: partial(save_ours, name=name, quantization=method) for name, method in OPENVINO_METHODS.items()},
    **{
        f"{name}{UNCACHED}": partial(save, name=f"{name}{UNCACHED}", prefix_caching=False, **how)
        for name, save, how in (
            ("ours", save_ours, {"quantization": None}),
            ("ours-openvino", save_ours_openvino, {}),
            ("ours-openvino-int8", save_ours, {"quantization": "openvino-int8"}),
        )
    },
}


def main() -> None:
    name, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    for wanted in dict.fromkeys([CHECKPOINT, name]):
        if not (folder / wanted).exists():
            ARTIFACTS[wanted](SHAPES[model], folder)


if __name__ == "__main__":
    main()

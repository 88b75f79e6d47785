"""The folder of an OpenVINO IR: what its files say of the model, without loading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_description import IRDescription, KVShape, describe_ir
from mlflow_llm_plugins.generation.openvino.ir_files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    MODEL_FILE,
    WEIGHTS_FILE,
)

_KV_BYTES = {"f32": 4, "bf16": 2, "f16": 2}  # of a number
_U8_SCALE = 8  # bytes of a scale and zero point: for each value of a head and token; of keys, for each
_U8_KEYS = 32  # tokens (a page) and place in the width (openvino 2026.4 on x86-64)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What can be read in milliseconds."""

    path: Path
    config: Mapping[str, Any]  # of the text model, as in config.json
    generation_config: Mapping[str, Any]  # empty where there is none
    weight_bytes: int
    ir: IRDescription

    @classmethod
    def read(cls, path: str | Path) -> ModelFolder:
        """Look into the folder.

        Raises:
            CheckpointError: A file is missing or cannot be read, or the model is no causal language model that keeps
                its state.
        """
        folder = Path(path)
        missing = [name for name in (MODEL_FILE, WEIGHTS_FILE, CONFIG_FILE) if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} is no folder of an OpenVINO model: it has no {', no '.join(missing)}. Log the model with "
                "quantization='openvino-int8', or give the folder that optimum-intel has written."
            )
        config = _json(folder / CONFIG_FILE)
        return cls(
            path=folder,
            config=config.get("text_config") or config,
            generation_config=_json(folder / GENERATION_CONFIG_FILE)
            if (folder / GENERATION_CONFIG_FILE).is_file()
            else {},
            weight_bytes=(folder / WEIGHTS_FILE).stat().st_size,
            ir=describe_ir(folder / MODEL_FILE),
        )

    def vocab_size(self) -> int:
        """Every token id must be below it: it has a row in the input embedding and a logit.

        The library looks up the logits of a prompt's tokens (repetition penalty) and of end tokens without a check.

        Raises:
            CheckpointError: config.json does not say.
        """
        size = self.config.get("vocab_size")
        if not isinstance(size, int) or size < 1:
            raise CheckpointError(
                f"{self.path / CONFIG_FILE} must name a vocab_size, a whole number; it has {size!r}."
            )
        return min(size, self.ir.vocab_size)

    def kv_bytes_per_token(self, precision: str | None) -> int:
        """What keys and values of all layers take of the cache.

        Args:
            precision: Of EngineSettings; None is taken for u8, the library's choice on CPUs (2026.4).
        """
        return sum(_kv_bytes(layer, precision or "u8") for layer in self.ir.kv_layers)

    def end_token_ids(self, tokenizer: Any) -> frozenset[int]:
        """The tokens that end an answer: of the generation config, else the model's config, else the tokenizer."""
        named = (self.generation_config.get("eos_token_id"), self.config.get("eos_token_id"))
        ids = next((ids for ids in named if ids is not None), getattr(tokenizer, "eos_token_id", None))
        return frozenset([ids] if isinstance(ids, int) else ids or ())


def _kv_bytes(layer: KVShape, precision: str) -> int:
    if precision != "u8":
        return layer.values * _KV_BYTES[precision]
    scales = layer.key_heads * layer.key_width * _U8_SCALE // _U8_KEYS + layer.value_heads * _U8_SCALE
    return layer.values + scales


def _json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} must hold a JSON object, got {type(content).__name__}.")
    return content

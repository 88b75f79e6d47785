"""What lies beside the model in an exported folder: configuration and tokenizer."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused
from mlflow_llm_plugins.quantized_llm.openvino_export.context import longest_context

_logger = logging.getLogger(__name__)


def write_configuration(model: Any, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    from transformers import GenerationConfig

    config, context = copy.deepcopy(model.config), longest_context(model.config)
    text_config = config.get_text_config()
    if context != getattr(text_config, "max_position_embeddings", None):
        _logger.warning("Beyond %d tokens the model has other rotary factors: the exported one stops there.", context)
        text_config.max_position_embeddings = context
    config.save_pretrained(folder)
    generation_config = model.generation_config or GenerationConfig.from_model_config(model.config)
    # Not save_pretrained, which refuses sampling values beside greedy decoding: harmless, and in many checkpoints.
    generation_config.to_json_file(folder / "generation_config.json")


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer's own files, and tokenizer and detokenizer as OpenVINO models."""
    tokenizer.save_pretrained(folder)
    write_tokenizer_model(tokenizer, folder)


def write_tokenizer_model(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer and detokenizer as OpenVINO models, which stop strings and grammars of the library need.

    Raises:
        UnsupportedFeatureError: OpenVINO has no operations for this tokenizer.
    """
    with telemetry_refused():
        import openvino as ov
        from openvino_tokenizers import convert_tokenizer

        try:
            encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
        except Exception as error:  # of many classes: RuntimeError, OVTypeError, KeyError
            raise UnsupportedFeatureError(
                f"{type(tokenizer).__name__} cannot be converted for OpenVINO: {str(error).strip()}"
            ) from error
        ov.save_model(encoder, folder / "openvino_tokenizer.xml")
        ov.save_model(decoder, folder / "openvino_detokenizer.xml")

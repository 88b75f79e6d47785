"""What lies beside the model in an exported folder: configuration and tokenizer."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.generation.openvino.ir_files import DETOKENIZER_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused
from mlflow_llm_plugins.quantized_llm.openvino_export.context import longest_context
from mlflow_llm_plugins.quantized_llm.openvino_export.machine_errors import is_of_memory

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenizerModels:
    """A tokenizer as two OpenVINO models."""

    encoder: Any
    decoder: Any

    def save(self, folder: Path) -> None:
        """Write the four files of `ir_files.TOKENIZER_FILES`."""
        import openvino as ov

        for model, name in ((self.encoder, TOKENIZER_FILE), (self.decoder, DETOKENIZER_FILE)):
            ov.save_model(model, folder / name)


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
    generation_config.to_json_file(folder / GENERATION_CONFIG_FILE)


def convert_tokenizer(tokenizer: Any) -> TokenizerModels | None:
    """Tokenizer and detokenizer as OpenVINO models, which constraints need and nothing else.

    Returns:
        None where OpenVINO has no operations for this tokenizer or its package is missing, after a warning.
    """
    with telemetry_refused():
        try:
            from openvino_tokenizers import convert_tokenizer as convert

            encoder, decoder = convert(tokenizer, with_detokenizer=True)
        except ImportError as error:
            reason = f"{error}; pip install 'mlflow-llm-plugins[openvino-export]' and do this again"
        except Exception as error:  # of many classes: RuntimeError, OVTypeError, KeyError
            if is_of_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        else:
            return TokenizerModels(encoder, decoder)
    _logger.warning(
        "%s cannot be converted for OpenVINO (%s). The model refuses constrained output (response_format, regex, "
        "choice and whatever else prescribes an answer's form); other requests it answers.",
        type(tokenizer).__name__,
        reason,
    )
    return None


def write_tokenizer(tokenizer: Any, models: TokenizerModels | None, folder: Path) -> None:
    """Write the tokenizer's own files, and those of its models where there are any."""
    tokenizer.save_pretrained(folder)
    if models is not None:
        models.save(folder)

"""What transformers passes over, refused: weights that are missing, layers not quantized, names not found again."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Mapping
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.quantization import Quantization

_logger = logging.getLogger(__name__)

BITSANDBYTES_WEIGHTS = {"Params4bit", "Int8Params"}
EXPECTED_SHARE = 0.5  # of the parameters; below it, quantizing saves little
NAMES_SHOWN = 3


def check_complete(report: Mapping[str, Collection[Any]], model: Any, name: str) -> None:
    """Refuse a model with weights that transformers made up: random numbers where the files have none that fit.

    Args:
        report: What `from_pretrained(output_loading_info=True)` returns beside the model.
        model: The model.
        name: What messages call the checkpoint.

    Raises:
        CheckpointError: Names the first weights that are missing or of another shape.
    """
    architecture = type(model).__name__
    if missing := sorted(report["missing_keys"]):
        unexpected = sorted(report["unexpected_keys"])
        instead = f", but has {_first(unexpected)}, which it does not know" if unexpected else ""
        raise CheckpointError(
            f"{name} lacks {len(missing)} of the weights of {architecture}: {_first(missing)}{instead}. They would be "
            "random numbers. Copy or download it again, or save it again with `model.save_pretrained(directory)`."
        )
    if mismatched := sorted(report["mismatched_keys"]):
        weight, stored, expected = mismatched[0]
        raise CheckpointError(
            f"{name} has weights that do not fit its config.json: {weight} has the shape {tuple(stored)}, "
            f"{architecture} needs {tuple(expected)}. Take both from the same checkpoint."
        )


def check_quantized(model: Any, quantization: Quantization) -> None:
    """Refuse what changed nothing, and warn of what changed little.

    Layers are replaced by their class: silently none when none has it (Falcon), and not the experts of a mixture.

    Raises:
        UnsupportedFeatureError: No layer was quantized.
    """
    if quantization.config.get("quant_method") != "bitsandbytes":
        return
    quantized = _quantized_parameters(model)
    if not quantized:
        raise UnsupportedFeatureError(
            f"quantization={quantization.method!r} changes no layer of {type(model).__name__}: bitsandbytes replaces "
            "torch's own linear layers, and it has none. Log it as it is."
        )
    share = quantized / model.num_parameters()
    if share < EXPECTED_SHARE:
        _logger.warning(
            "Only %.0f%% of the parameters of %s were quantized with %s: bitsandbytes replaces torch's own linear "
            "layers, not embeddings, and not experts that are stored together.",
            100 * share,
            type(model).__name__,
            quantization.method,
        )


def check_reloadable(model: Any) -> None:
    """Refuse quantized weights that transformers would look for under other names when it loads them (Llama 4).

    Raises:
        UnsupportedFeatureError: With the way out, quantizing at load.
    """
    config = getattr(model.config, "quantization_config", None)
    if config is None or config.quant_method != "bitsandbytes":
        return
    written = {name for name, _ in model.named_parameters()}
    if expected := sorted(_names_when_loaded(model) - written):
        raise UnsupportedFeatureError(
            f"A {type(model).__name__} that is quantized with bitsandbytes can be saved but not loaded again: "
            f"transformers would look for {_first(expected)}. Log it as it is and quantize when it is loaded: "
            "engine_config={'quantization': ...}, or save_pretrained=False."
        )


def _names_when_loaded(model: Any) -> set[str]:
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    config = copy.deepcopy(model.config)
    quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
    with torch.device("meta"):
        skeleton = type(model)(config)
    quantizer.preprocess_model(
        model=skeleton, dtype=model.dtype, device_map=None, checkpoint_files=None, use_kernels=False
    )
    return {name for name, _ in skeleton.named_parameters()}


def _quantized_parameters(model: Any) -> int:
    """Logical ones; two of 4 bits share a byte."""
    found = 0
    for parameter in model.parameters():
        if type(parameter).__name__ in BITSANDBYTES_WEIGHTS:
            found += parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)
    return found


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown

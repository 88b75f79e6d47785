"""Weights of an OpenVINO model in 8 or 4 bits, by nncf."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import openvino as ov

from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe

_quiet = threading.Lock()
CALIBRATION_TOKENS = 512  # of each text; what comes later is cut off


def compress(model: ov.Model, recipe: OpenVINORecipe, tokenizer: Any) -> ov.Model:
    """Round the weights as the recipe says.

    Args:
        model: Stateful, uncompressed; may be changed.
        recipe: Of int8 or int4.
        tokenizer: For the calibration texts.
    """
    with _quiet_nncf():
        import nncf

        symmetry = "SYM" if recipe.symmetric else "ASYM"
        mode = nncf.CompressWeightsMode[f"{recipe.weight_format.upper()}_{symmetry}"]
        options = _int4_options(recipe, tokenizer) if recipe.weight_format == "int4" else {}
        return nncf.compress_weights(model, mode=mode, **options)


@contextmanager
def _quiet_nncf() -> Iterator[None]:
    """Keep nncf (3.4) from drawing tables and bars, and from setting the process' class of loggers at its import.

    Both belong to the process, so one thread at a time.
    """
    import rich

    with _quiet:
        logger_class = logging.getLoggerClass()
        try:
            import nncf  # noqa: F401
        finally:
            logging.setLoggerClass(logger_class)
        logger, console = logging.getLogger("nncf"), rich.get_console()
        before = logger.level, console.quiet
        logger.setLevel(logging.ERROR)
        console.quiet = True
        try:
            yield
        finally:
            logger.setLevel(before[0])
            console.quiet = before[1]


def _int4_options(recipe: OpenVINORecipe, tokenizer: Any) -> dict[str, Any]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    options: dict[str, Any] = {
        "group_size": recipe.group_size,
        "ratio": recipe.ratio,
        "advanced_parameters": AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
    }
    if recipe.calibration is not None:
        options |= {
            "awq": recipe.awq or None,
            "scale_estimation": recipe.scale_estimation or None,
            "dataset": nncf.Dataset([_inputs(ids) for ids in _token_rows(recipe.calibration, tokenizer)]),
        }
    return options


def _token_rows(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    return [row[:CALIBRATION_TOKENS] for row in (tokenizer(text)["input_ids"] for text in texts) if row]


def _inputs(ids: list[int]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }

"""A variant's model, loaded for the time of its evaluation only, and what it takes."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.metrics.engines import find_engine
from mlflow_llm_plugins.metrics.models import load_quietly

_logger = logging.getLogger(__name__)

FLAVOR = "quantized_llm"  # whose section of MLmodel has the size of the weights


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What can be evaluated."""

    model: Any
    rss_before_bytes: int | None = None  # resident memory of this process before it was loaded; None: not loaded here
    size_bytes: int | None = None  # of the artifact
    weight_bytes: int | None = None  # of the weights' files, wherever they are
    loaded_weight_bytes: int | None = None  # of the weights in memory, as quantized

    def figures(self, peak_rss_bytes: float | None) -> dict[str, float]:
        """Sizes, and the growth of the process's memory from before loading to its peak.

        The growth is that of the whole process: the first variant also shows what is loaded once for all, such as
        libraries and judges, and an allocator keeps pages that an earlier variant freed, so a later one may show less
        than it needs.
        """
        found: dict[str, float | None] = {
            "model/loaded_weight_bytes": self.loaded_weight_bytes,
            "model/weight_bytes": self.weight_bytes,
            "model/size_bytes": self.size_bytes,
        }
        if self.rss_before_bytes is not None and peak_rss_bytes is not None:
            found["memory_growth/rss_bytes"] = peak_rss_bytes - self.rss_before_bytes
        return {name: float(value) for name, value in found.items() if value is not None}


@contextmanager
def opened(variant: Variant) -> Iterator[OpenedModel]:
    """Load a model that is given by its URI and close it at the end; others are taken as they are, and left open."""
    if not variant.is_loaded_here:
        yield OpenedModel(variant.model, **_sizes(variant.model))
        return
    import psutil

    gc.collect()  # what the variant before left in circles would count as this one's
    before = psutil.Process().memory_info().rss
    model = load_quietly(variant.model, model_config=dict(variant.load_config) or None)
    try:
        yield OpenedModel(model, before, **_sizes(model))
    finally:
        _close(model)


def _sizes(model: Any) -> dict[str, int | None]:
    metadata = getattr(model, "metadata", None)
    flavors = getattr(metadata, "flavors", None)
    section = flavors.get(FLAVOR) if isinstance(flavors, Mapping) else None
    return {
        "size_bytes": getattr(metadata, "model_size_bytes", None),
        "weight_bytes": section.get("weight_bytes") if isinstance(section, Mapping) else None,
        "loaded_weight_bytes": _loaded_weight_bytes(model),
    }


def _loaded_weight_bytes(model: Any) -> int | None:
    """As the engine tells it; None where it does not, or where there is none."""
    engine = find_engine(model)
    return None if engine is None else getattr(engine.stats(), "weight_bytes", None) or None


def _close(model: Any) -> None:
    """Free the engine of our flavor, and whatever else can be closed; a pyfunc model itself cannot."""
    implementation = getattr(model, "_model_impl", None)
    get_raw_model = getattr(implementation, "get_raw_model", None)
    close = getattr(get_raw_model() if callable(get_raw_model) else None, "close", None)
    if not callable(close):
        return
    try:
        close()
    except Exception:  # the evaluation's own result or error matters more
        _logger.warning("A model could not be closed; it may keep its memory.", exc_info=True)

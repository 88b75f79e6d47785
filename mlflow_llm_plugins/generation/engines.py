"""The engines that there are, and what each needs and cannot do. Imports none of them.

To add one: a file that has a function `open(model, tokenizer, settings) -> GenerationEngine`, and a row here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from mlflow_llm_plugins.errors import MissingDependencyError
from mlflow_llm_plugins.generation.features import Limits
from mlflow_llm_plugins.generation.openvino.limits import OPENVINO_LIMITS
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.lookup import is_importable

_logger = logging.getLogger(__name__)

ModelFormat = Literal["torch", "openvino"]

_TRANSFORMERS = "mlflow_llm_plugins.generation.transformers_engine"
_TRANSFORMERS_LIMITS = Limits(refused={"lora": "Merge the adapter when the model is logged."})


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine."""

    opener: str  # "package.module:function"
    model_format: ModelFormat = "torch"  # a `PreTrainedModel`, or the folder of an OpenVINO IR
    packages: tuple[str, ...] = ()  # modules that must be importable
    extra: str = "torch"  # of this package, that brings them
    limits: Limits = field(default_factory=Limits)
    unused_settings: tuple[str, ...] = ()  # of EngineSettings, that have no effect here

    def missing_packages(self) -> list[str]:
        """Those that cannot be imported here."""
        return [name for name in self.packages if not is_importable(name)]

    def require_packages(self, what: str) -> None:
        """Refuse to go on where its packages are not installed, as on a tracking server.

        Args:
            what: What needs them, the beginning of the message.

        Raises:
            MissingDependencyError: With the pip command.
        """
        if missing := self.missing_packages():
            raise MissingDependencyError(
                f"{what} needs {' and '.join(missing)}: pip install 'mlflow-llm-plugins[{self.extra}]'"
            )

    def warn_of_unused(self, settings: EngineSettings) -> None:
        """Name what somebody has set, to another value than the default, and that has no effect."""
        defaults = EngineSettings()
        names = [name for name in self.unused_settings if getattr(settings, name) != getattr(defaults, name)]
        if names:
            _logger.warning("With this engine these settings have no effect: %s.", ", ".join(names))


_OPENVINO_SETTINGS = ("inference_precision", "kv_cache_precision")
_TORCH_SETTINGS = ("per_request_attention", "packed_weights", "spin_threads", "tune_allocator")
_TORCH_PACKAGES = ("torch", "transformers", "accelerate")

ENGINES: Mapping[str, EngineRow] = MappingProxyType(
    {
        # continuous batching; "generate" where it is not right
        "transformers": EngineRow(
            f"{_TRANSFORMERS}:open_continuous",
            packages=_TORCH_PACKAGES,
            limits=_TRANSFORMERS_LIMITS,
            unused_settings=_OPENVINO_SETTINGS,
        ),
        # padded batches, for any causal model
        "generate": EngineRow(
            f"{_TRANSFORMERS}:open_padded",
            packages=_TORCH_PACKAGES,
            limits=Limits(
                refused={
                    **_TRANSFORMERS_LIMITS.refused,
                    "prefix_caching": "Padded batches share nothing.",
                    "cached_tokens": "Always 0.",
                }
            ),
            unused_settings=_OPENVINO_SETTINGS,
        ),
        # OpenVINO GenAI in a child process, on CPUs
        "openvino": EngineRow(
            "mlflow_llm_plugins.generation.openvino.engine:open_openvino",
            model_format="openvino",
            packages=("openvino", "openvino_genai", "openvino_tokenizers", "tokenizers", "jinja2"),
            extra="openvino",
            limits=OPENVINO_LIMITS,
            unused_settings=_TORCH_SETTINGS,
        ),
    }
)
DEFAULT_ENGINE = "transformers"


def engine_row(name: str | None) -> EngineRow:
    """The row of an engine; one from outside, "package.module:function", takes torch models and needs nothing."""
    name = name or DEFAULT_ENGINE
    return ENGINES.get(name) or EngineRow(name)

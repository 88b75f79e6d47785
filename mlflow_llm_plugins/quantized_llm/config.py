"""What can be set when an artifact is loaded or served: the engine's settings and how the weights are placed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator
from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import ENGINES
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.quantized_llm.quantization import AUTO

_logger = logging.getLogger(__name__)


class ModelConfig(EngineSettings):
    """The flat `model_config` of an artifact: every key can be overridden at load and serve time."""

    engine: str | None = Field(
        None,
        description="Which generation engine runs: 'transformers', 'generate', 'openvino', or 'auto', a choice for "
        "this machine. None: the one that the artifact's weights are for.",
    )
    quantization: str | dict[str, Any] | None = Field(
        None, description="Quantization applied while loading; None: as recorded; 'none': off; 'auto': chosen."
    )
    device_map: str | int | dict[str, str | int] | None = Field(
        None, description="Where the weights go; None: the first accelerator, else the CPU."
    )
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = Field(
        None, description="Type of the weights that are not quantized; None: the checkpoint's."
    )
    attn_implementation: str | None = Field(None, description="Attention of transformers; None: its own choice.")
    max_memory: dict[str | int, str | int] | None = Field(
        None, description="Memory by device for device_map='auto', for example {0: '10GiB', 'cpu': '30GiB'}."
    )

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str | None) -> str | None:
        names = [AUTO, *ENGINES]
        if value is not None and value not in names and ":" not in value:
            known = ", ".join(sorted(names))
            raise ValueError(
                f"unknown engine.{did_you_mean(value, names)} Known: {known}; or 'package.module:function'"
            )
        return value

    @field_validator("dtype", mode="before")
    @classmethod
    def _checkpoint_dtype(cls, value: Any) -> Any:
        """Also torch's objects and spelling, and transformers' word for the checkpoint's own type."""
        name = str(value).removeprefix("torch.")
        return None if value is None or name == "auto" else name

    @field_validator("max_memory")
    @classmethod
    def _device_numbers(cls, value: dict[str | int, str | int] | None) -> dict[str | int, str | int] | None:
        """JSON and YAML know only strings as keys, accelerate wants a GPU's number."""
        if value is None:
            return None
        return {int(key) if str(key).isdigit() else key: size for key, size in value.items()}

    @classmethod
    def at_log_time(
        cls,
        engine_config: Mapping[str, Any] | None,
        model_config: Mapping[str, Any] | None,
        inference_config: Mapping[str, Any] | None,
    ) -> Self:
        """One configuration of the three arguments that may hold a part of it.

        Raises:
            InvalidInputError: A key stands in two of them, is unknown, or has a value that is not allowed.
        """
        if inference_config is not None:
            _logger.warning("`inference_config` is deprecated. Please use `model_config` instead.")
        given: dict[str, Any] = {}
        for source, part in {
            "engine_config": engine_config,
            "model_config": model_config,
            "inference_config": inference_config,
        }.items():
            parsed = cls.parse({} if part is None else part, source).as_given()
            if twice := sorted(set(given) & set(parsed)):
                raise InvalidInputError(
                    f"{', '.join(twice)} given twice, the second time in {source}. Give each key in only one of "
                    "engine_config and model_config."
                )
            given |= parsed
        return cls.parse(given, "model_config")

    @classmethod
    def from_artifact(cls, raw: Mapping[str, Any] | None) -> Self:
        """The configuration of an artifact's MLmodel, where null stands for a key that nobody set."""
        return cls.parse({key: value for key, value in (raw or {}).items() if value is not None}, "model_config")

    def as_given(self) -> dict[str, Any]:
        """Only the keys that somebody set."""
        return self.model_dump(exclude_unset=True)

    def for_mlmodel(self) -> dict[str, Any]:
        """Every key, with null where nothing was set: MLflow passes on only overrides of keys that it finds here."""
        return {**dict.fromkeys(type(self).model_fields), **self.as_given()}

    def overridden(self, **overrides: Any) -> Self:
        """This configuration with those of `overrides` that are not None."""
        given = {key: value for key, value in overrides.items() if value is not None}
        return type(self).parse({**self.as_given(), **given}, "load_model")

    def without(self, key: str) -> Self:
        """This configuration with `key` as if nobody had set it."""
        return type(self)(**{name: value for name, value in self.as_given().items() if name != key})

    def engine_settings(self) -> EngineSettings:
        """The part that the engine gets."""
        return EngineSettings(**self.model_dump(include=set(EngineSettings.model_fields), exclude_unset=True))

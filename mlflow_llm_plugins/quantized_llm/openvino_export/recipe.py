"""How the weights of an exported model are stored."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from mlflow_llm_plugins.settings import Settings

# What belongs to a format, with its default. int8 has a zero point, which costs nothing in speed; int4 has none, which
# makes it faster, and its error hardly larger.
SETTINGS_OF: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "none": {},
        "fp16": {},
        "int8": {"symmetric": False},
        "int4": {
            "symmetric": True,
            "group_size": 128,
            "ratio": 1.0,
            "awq": False,
            "scale_estimation": False,
            "calibration": None,
        },
    }
)


class OpenVINORecipe(Settings):
    """Type of the stored weights, and how they are rounded to it; settings that a format lacks are None or False."""

    weight_format: Literal["none", "fp16", "int8", "int4"] = Field(description="none: as the checkpoint has them.")
    symmetric: bool | None = Field(None, description="Without a zero point. int8: default False, int4: default True.")
    group_size: int | None = Field(
        None,
        ge=-1,
        description="int4: weights of a row that share a scale; default 128, -1: the whole row. A layer whose width "
        "it does not divide gets the largest power of two of at least 32 that does, else stays in int8.",
    )
    ratio: float | None = Field(None, gt=0, le=1, description="int4: share of layers in 4 bits, the rest has 8.")
    awq: bool = Field(False, description="int4: scale channels by how active they are; needs calibration.")
    scale_estimation: bool = Field(False, description="int4: fit scales to the layers' outputs; needs calibration.")
    calibration: tuple[str, ...] | None = Field(None, min_length=1, description="int4: texts for the two above.")

    @property
    def is_compressed(self) -> bool:
        """Whether weights are rounded to integers."""
        return self.weight_format in ("int8", "int4")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        """Fill in the format's defaults, and refuse what belongs to another format."""
        weight_format = raw.get("weight_format") if isinstance(raw, Mapping) else None
        if not isinstance(weight_format, str) or weight_format not in SETTINGS_OF:
            return raw  # for pydantic to refuse
        own = SETTINGS_OF[weight_format]
        for key in set().union(*SETTINGS_OF.values()) - set(own):
            if raw.get(key) not in (None, cls.model_fields[key].default):
                allowed = f"only {', '.join(own)}" if own else "no further settings"
                raise ValueError(f"{key}={raw[key]!r} does not belong to weight_format={weight_format!r}: {allowed}.")
        return {**own, **{key: value for key, value in raw.items() if value is not None}}

    @field_validator("calibration", mode="before")
    @classmethod
    def _check_texts(cls, texts: Any) -> Any:
        if isinstance(texts, str):
            raise ValueError("it must be a list of texts, and this is one text. Give several typical ones.")
        if isinstance(texts, list | tuple) and any(isinstance(text, str) and not text.strip() for text in texts):
            raise ValueError("a text must not be empty. Leave empty ones out.")
        return texts

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group_size == 0:
            raise ValueError("group_size must be -1 (one scale a row) or at least 1, got 0.")
        wants_texts = self.awq or self.scale_estimation
        if wants_texts and self.calibration is None:
            raise ValueError("awq and scale_estimation need calibration: give a list of typical texts.")
        if self.calibration is not None and not wants_texts:
            raise ValueError("calibration is used by awq and scale_estimation alone: set one, or leave it out.")
        return self

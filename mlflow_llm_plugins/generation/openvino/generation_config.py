"""The library's GenerationConfig of plain values; for the child process, where the library may be imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig

STRUCTURED_OUTPUT = "structured_output"  # the one field that is no attribute: a kind and its text


def generation_config(fields: Mapping[str, Any]) -> GenerationConfig:
    """Make the library's object of fields that are attributes of it.

    Raises:
        TypeError: A value of another type than the library takes.
    """
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    for name, value in fields.items():
        if name == STRUCTURED_OUTPUT:
            kind, text = value
            config.structured_output_config = openvino_genai.StructuredOutputConfig(**{kind: text})
        else:
            setattr(config, name, value)
    return config

"""The temperatures that a checkpoint was calibrated with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.openai_api.decisions.labels import QuestionType
from mlflow_llm_plugins.openai_api.fields import shown

DECISION_CONFIG = "decision.json"  # the name that transformers 5.23 gives it


def read_temperatures(checkpoint: Path | None) -> dict[str, float]:
    """Temperature of each question type, from `decision.json`; its other keys do not count.

    Args:
        checkpoint: Its folder; None where there is none.

    Returns:
        Only the types that the file names; a type that is missing has 1.

    Raises:
        CheckpointError: The file is no JSON object, or a temperature is no number above 0.
    """
    if checkpoint is None or not (file := checkpoint / DECISION_CONFIG).is_file():
        return {}
    temperatures = _object(file, "temperature", _object(file, "", _json(file)).get("temperature") or {})
    types = [name for name in get_args(QuestionType) if temperatures.get(name) is not None]
    return {name: _temperature(file, name, temperatures[name]) for name in types}


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error


def _object(file: Path, key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        where = f"{key} in {file}" if key else str(file)
        raise CheckpointError(f"{where} must be an object, got {shown(value)}.")
    return value


def _temperature(file: Path, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(f"temperature.{name} in {file} must be a finite number above 0, got {shown(value)}.")
    return float(value)

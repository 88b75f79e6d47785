"""Whether an evaluation asked for this evaluator, and who else takes part in it.

MLflow asks every registered evaluator where the user named none, and hands over neither that nor the list of the
others; its frames know. On any doubt the evaluator stays out of what it was not asked for (MLflow 3.11 to 3.17).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

NAME = "llm"  # of the evaluator
OWN_MODEL_TYPES = frozenset({"llm", "chat"})  # that no evaluator of MLflow knows
_MODULE = "mlflow.models.evaluation.base"
_RESOLVING = "resolve_evaluators_and_configs"
_EVALUATING = "_evaluate"


def is_invited(asking: FrameType, model_type: str | None, evaluator_config: object) -> bool:
    """Whether to take part.

    Args:
        asking: The frame that asks `can_evaluate`.
        model_type: As the user gave it.
        evaluator_config: For this evaluator; where the user wrote one for all, that one.
    """
    if model_type in OWN_MODEL_TYPES:
        return True
    if _is(asking, _EVALUATING):
        return True  # resolved before, so named or accepted below
    return _is(asking, _RESOLVING) and _has_own_config(asking.f_locals.get("evaluator_config"), evaluator_config)


def others_take_part() -> bool:
    """Whether others evaluate beside this one; MLflow leaves out those that cannot evaluate the model type."""
    running = _running()
    model_type = running.get("model_type")
    others = [each for each in running.get("evaluators") or () if getattr(each, "name", NAME) != NAME]
    return any(each.evaluator.can_evaluate(model_type=model_type, evaluator_config=each.config) for each in others)


def takes_part() -> bool:
    """Whether this evaluator is one of those of the evaluation that is running."""
    return any(getattr(each, "name", None) == NAME for each in _running().get("evaluators") or ())


def _running() -> Mapping[str, Any]:
    """What MLflow evaluates with, by its names; nothing where no evaluation is running in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is(frame, _EVALUATING):
        frame = frame.f_back
    return {} if frame is None else frame.f_locals


def _is(frame: FrameType, function: str) -> bool:
    return frame.f_code.co_name == function and frame.f_globals.get("__name__") == _MODULE


def _has_own_config(configs: Any, own: object) -> bool:
    """Whether the user wrote a config under our name; MLflow hands a flat one to all, the same object."""
    if not isinstance(configs, Mapping) or NAME not in configs or not own:
        return False
    return not any(config is own for name, config in configs.items() if name != NAME)

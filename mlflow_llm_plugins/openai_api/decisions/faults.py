"""What is wrong with a decision request; the texts name places and keys, never what was said there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError

_TOLD = 20  # faults that one message has


class InvalidDecisionError(InvalidInputError):
    """A field of a decision request cannot be used."""


class TooManyQuestionsError(InvalidDecisionError):
    """More questions than one request may ask."""


def read_all(readers: Iterable[Callable[[], Any]]) -> list[Any]:
    """Call each reader, and tell the faults of all together, up to a length that can be read.

    Raises:
        UnsupportedFeatureError: Nothing is wrong but that the engine cannot do it.
        InvalidDecisionError: Anything else.
    """
    read, faults = [], []
    for reader in readers:
        try:
            read.append(reader())
        except InvalidInputError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        only_unsupported = all(isinstance(fault, UnsupportedFeatureError) for fault in faults)
        error = UnsupportedFeatureError if only_unsupported else InvalidDecisionError
        untold = f" And {len(faults) - _TOLD} more." if len(faults) > _TOLD else ""
        raise error(" ".join(map(str, faults[:_TOLD])) + untold)
    return read

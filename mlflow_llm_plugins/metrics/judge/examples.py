"""Judged examples in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.judge.columns import cell_text, renaming
from mlflow_llm_plugins.metrics.judge.disarming import Disarmer
from mlflow_llm_plugins.metrics.metric import NotScoredError

VERDICT, EXPLANATION = "verdict", "explanation"


@dataclass(frozen=True, slots=True)
class Example:
    """A case and what it deserves."""

    texts: tuple[tuple[str, str], ...]  # column and text
    verdict: str
    explanation: str = ""


def parse_examples(examples: object, columns: Sequence[str], labels: Sequence[str]) -> tuple[Example, ...]:
    """Read examples.

    Args:
        examples: Dictionaries with a text for each column, the `verdict` and perhaps an `explanation`.
        columns: What the judge sees; none may have the name of an example's own key.
        labels: The verdicts that it may give.

    Raises:
        InvalidInputError: Names the example and what is wrong with it.
    """
    if not isinstance(examples, list | tuple):
        raise InvalidInputError(f"examples must be a list of dictionaries, got {type(examples).__name__}.")
    if examples:
        _check_columns(columns)
    return tuple(_example(f"examples[{i}]", example, columns, labels) for i, example in enumerate(examples))


def _example(where: str, example: Any, columns: Sequence[str], labels: Sequence[str]) -> Example:
    if not isinstance(example, Mapping):
        raise InvalidInputError(f"{where} must be a dictionary, got {type(example).__name__}.")
    _check_keys(where, example, columns)
    verdict = str(example[VERDICT])
    if verdict not in labels:
        raise InvalidInputError(
            f"{where}: verdict {verdict!r} is no option.{did_you_mean(verdict, labels)} Options: {', '.join(labels)}."
        )
    disarm = Disarmer().disarm
    try:
        texts = tuple((column, disarm(cell_text(example[column], column))) for column in columns)
    except NotScoredError as reason:
        raise InvalidInputError(f"{where}: {reason}.") from reason
    return Example(texts, verdict, disarm(str(example.get(EXPLANATION) or "")))


def _check_columns(columns: Sequence[str]) -> None:
    for key in (VERDICT, EXPLANATION):
        if key in columns:
            raise InvalidInputError(
                f"examples: the column {key!r} has the name of a key that examples have themselves. "
                f"{renaming('it', key, f'other_{key}')}"
            )


def _check_keys(where: str, example: Mapping[Any, Any], columns: Sequence[str]) -> None:
    known = [*columns, VERDICT, EXPLANATION]
    for key in example:
        if key not in known:
            raise InvalidInputError(
                f"{where}: unknown key {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}."
            )
    if missing := [key for key in (*columns, VERDICT) if key not in example]:
        raise InvalidInputError(f"{where} needs {', '.join(missing)} as well.")

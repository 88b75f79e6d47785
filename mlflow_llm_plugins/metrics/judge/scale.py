"""The verdicts that a judge may give: from a scale and a rubric as users write them to options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.judge.question import Option, ScaleKind

MOST_LEVELS = 20
MOST_CHOICES = 50
_LONGEST_LABEL = 80  # characters
_JOINERS = dict.fromkeys((0x200C, 0x200D))  # invisible, and needed in words of Persian and Hindi, and by emoji
_SPAN = re.compile(r"\s*(-?\d+)\s*(?:-|–|\.\.|to)\s*(-?\d+)\s*")
_ALLOWED = "a span such as (1, 5) or '1-5', a list of labels, a dictionary of labels and what each counts, or 'yes/no'"


@dataclass(frozen=True, slots=True)
class Scale:
    """Options in the order in which they are listed."""

    kind: ScaleKind
    options: tuple[Option, ...]

    @property
    def labels(self) -> list[str]:
        """What the judge answers."""
        return [option.label for option in self.options]

    @property
    def values(self) -> list[float] | None:
        """What each option counts; None for choices without an order."""
        values = [option.value for option in self.options if option.value is not None]
        return values if len(values) == len(self.options) else None

    @property
    def span(self) -> float:
        """From the lowest to the highest value; 0 for choices without an order."""
        values = self.values
        return max(values) - min(values) if values else 0.0

    def best(self, greater_is_better: bool) -> Option | None:
        """The option that a good answer deserves; None for choices without an order."""
        if self.values is None:
            return None
        choose = max if greater_is_better else min
        return choose(self.options, key=lambda option: option.value or 0.0)


def parse_scale(scale: object) -> Scale:
    """Read a scale.

    Args:
        scale: (1, 5), range(1, 6), [1, 2, 3] or "1-5" for levels; a list of labels for choices without an order; a
            dictionary of labels and numbers for choices that count something; "yes/no", where yes counts 1 and no 0.

    Raises:
        InvalidInputError: None of these, or labels that cannot be told apart.
    """
    if isinstance(scale, str):
        return _parse_text(scale)
    if isinstance(scale, Mapping):
        return _choices(list(scale), list(scale.values()))
    if isinstance(scale, range | list | tuple):
        items = list(scale)
        if items and all(_is_whole(item) for item in items):
            return _levels(items if len(items) > 2 or isinstance(scale, range) else _between(*items))
        if items and all(isinstance(item, str) for item in items):
            return _choices(items, None)
    raise InvalidInputError(f"scale must be {_ALLOWED}, got {scale!r}.")


def described(scale: Scale, rubric: Mapping[Any, Any]) -> Scale:
    """The scale with a description for the options that the rubric names.

    Raises:
        InvalidInputError: The rubric names an option that the scale does not have, or describes one by no text.
    """
    texts = {str(label): text for label, text in rubric.items()}
    for label, text in texts.items():
        if label not in scale.labels:
            raise InvalidInputError(
                f"rubric: {label!r} is no option of the scale.{did_you_mean(label, scale.labels)} "
                f"Options: {', '.join(scale.labels)}."
            )
        if not isinstance(text, str) or not text.strip():
            raise InvalidInputError(f"rubric: the description of {label!r} must be a text, got {text!r}.")
    options = (replace(option, description=texts.get(option.label, "").strip()) for option in scale.options)
    return replace(scale, options=tuple(options))


def _parse_text(scale: str) -> Scale:
    if re.fullmatch(r"\s*yes\s*/\s*no\s*", scale, re.IGNORECASE):
        return Scale("yes_no", (Option("Yes", value=1.0), Option("No", value=0.0)))
    if span := _SPAN.fullmatch(scale):
        return _levels(_between(*map(int, span.groups())))
    raise InvalidInputError(f"scale must be {_ALLOWED}, got {scale!r}.")


def _between(lowest: int, highest: int | None = None) -> list[int]:
    if highest is None or lowest >= highest:
        raise InvalidInputError(f"scale: a span goes from a lower to a higher number, got {(lowest, highest)!r}.")
    return list(range(lowest, min(highest, lowest + MOST_LEVELS) + 1))  # one too many is refused by `_levels`


def _levels(numbers: Sequence[int]) -> Scale:
    ordered = sorted(set(numbers))
    if not 2 <= len(ordered) <= MOST_LEVELS:
        raise InvalidInputError(f"scale must have from 2 to {MOST_LEVELS} levels, got {len(ordered)}.")
    return Scale("score", tuple(Option(str(number), value=float(number)) for number in ordered))


def _choices(labels: Sequence[Any], values: Sequence[Any] | None) -> Scale:
    if not 2 <= len(labels) <= MOST_CHOICES:
        raise InvalidInputError(f"scale must have from 2 to {MOST_CHOICES} choices, got {len(labels)}.")
    cleaned = [_label(label) for label in labels]
    if len({label.casefold() for label in cleaned}) < len(cleaned):
        raise InvalidInputError(f"scale: choices must differ in more than upper and lower case, got {cleaned!r}.")
    counts = [None] * len(cleaned) if values is None else [_count(*pair) for pair in zip(cleaned, values, strict=True)]
    if values is not None and len(set(counts)) < 2:
        raise InvalidInputError(f"scale: at least two choices must count different numbers, got {list(values)!r}.")
    return Scale("choice", tuple(Option(label, value=count) for label, count in zip(cleaned, counts, strict=True)))


def _label(label: object) -> str:
    text = str(label).strip() if isinstance(label, str) or _is_whole(label) else ""
    visible = text.translate(_JOINERS)
    if not visible or len(text) > _LONGEST_LABEL or not visible.isprintable():
        raise InvalidInputError(
            f"scale: a choice must be a text of one line with at most {_LONGEST_LABEL} characters, got {label!r}."
        )
    return text


def _count(label: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise InvalidInputError(
            f"scale: what {label!r} counts must be a finite number, got {value!r}. "
            "Descriptions of options belong into the rubric: rubric={label: description}."
        )
    return float(value)


def _is_whole(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)

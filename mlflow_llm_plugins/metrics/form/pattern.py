"""Whether answers hold given texts, or match a regular expression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.form.check import check_each
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, score_each
from mlflow_llm_plugins.metrics.packages import require

Which = Literal["all", "any"]
_LONGEST_S = 86_400  # `regex` fails on what is beyond its clock


def contains(
    texts: str | Sequence[str], *, which: Which = "all", ignore_case: bool = True, name: str = "contains"
) -> LLMMetric:
    """1 where an answer holds the texts, character by character, else 0 with what it lacks.

    Args:
        texts: One or several, none of them empty.
        which: Whether all must be there, or any one.
        ignore_case: Compare by Unicode's case folding.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: There are no texts, or one is empty, or `which` is unknown.
    """
    wanted = _texts(texts)
    if which not in get_args(Which):
        raise InvalidInputError(f"contains(which=...) must be 'all' or 'any', got {which!r}.")

    def check(text: str) -> str | None:
        haystack = text.casefold() if ignore_case else text
        lacking = [needle for needle in wanted if (needle.casefold() if ignore_case else needle) not in haystack]
        is_there = len(lacking) < len(wanted) if which == "any" else not lacking
        return None if is_there else f"lacks {', '.join(repr(needle) for needle in lacking)}"

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        return check_each(check, predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details=f"1 where the answer holds {which} of the texts, else 0.",
        metric_metadata={"texts": wanted, "which": which, "ignore_case": ignore_case},
    )


def matches_regex(
    pattern: str, full: bool = False, *, timeout_s: float = 1.0, name: str = "matches_regex"
) -> LLMMetric:
    r"""1 where an answer matches, else 0.

    Args:
        pattern: In the syntax of the `regex` library: that of `re` and more, such as `\p{Han}`; `(?i)` ignores case.
        full: The whole answer must match, not some part of it.
        timeout_s: Seconds for one answer; one that takes longer, as some patterns do on some texts, has no score.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: The pattern or the timeout is none.
        MissingDependencyError: regex is not installed.
    """
    compiled = _compiled(pattern)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= _LONGEST_S:
        raise InvalidInputError(
            f"matches_regex(timeout_s=...) must be more than 0 and at most {_LONGEST_S:,} seconds, got {timeout_s!r}."
        )
    match = compiled.fullmatch if full else compiled.search

    def score(text: str) -> float:
        try:
            return float(match(text, timeout=timeout_s) is not None)
        except TimeoutError:
            raise NotScoredError(f"the pattern takes longer than {timeout_s:g} s on the prediction") from None

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        return score_each(score, predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details=f"1 where {'the whole answer' if full else 'some part of the answer'} matches, else 0.",
        metric_metadata={"pattern": pattern, "full": full, "timeout_s": timeout_s},
    )


def _texts(texts: str | Sequence[str]) -> list[str]:
    listed = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else []
    if not listed or not all(isinstance(text, str) and text for text in listed):
        raise InvalidInputError(f"contains(texts=...) must be a text or a list of texts, none empty, got {texts!r}.")
    return listed


def _compiled(pattern: str) -> Any:
    if not isinstance(pattern, str):
        raise InvalidInputError(f"matches_regex(pattern=...) must be a string, got {type(pattern).__name__}.")
    regex = require("regex")
    try:
        return regex.compile(pattern)
    except regex.error as error:
        message = f"matches_regex(pattern={pattern!r}) is no regular expression: {error}."
        raise InvalidInputError(message) from error

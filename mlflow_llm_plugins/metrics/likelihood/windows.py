"""Texts longer than a context, scored in windows that overlap, each token once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `end - 1` of a text, of which those from `first` on are scored."""

    start: int
    end: int
    first: int


@dataclass(frozen=True, slots=True)
class Windows:
    """A way to cut texts.

    As in "Perplexity of fixed-length models" of transformers' documentation: windows start `stride` tokens apart, and
    a window scores what none before it has scored. Where the stride is the whole context, windows start one token
    earlier than that, or each would lose the prediction of its first token.
    """

    context_length: int
    stride: int

    def __post_init__(self) -> None:
        """Refuse what would never come to an end."""
        if self.context_length < 2 or self.stride < 1:
            raise ValueError(f"A window needs 2 tokens or more and a step, got {self}.")

    @property
    def step(self) -> int:
        """Tokens from the start of a window to that of the next one."""
        return min(self.stride, self.context_length - 1)

    def of(self, tokens: int, first: int = 1) -> Iterator[Window]:
        """The windows of a text.

        Args:
            tokens: Its length.
            first: Its first token that is scored, from 1; together the windows score all from there on.
        """
        start = 0
        while first < tokens:
            end = min(start + self.context_length, tokens)
            if end > first:
                yield Window(start, end, first)
                first = end
            start += self.step

    def tokens_of(self, tokens: int, first: int = 1) -> int:
        """Tokens that a model computes for such a text."""
        return sum(window.end - window.start for window in self.of(tokens, first))

    def figures(self) -> dict[str, float]:
        """For the metric's figures: what was used, where the caller left the choice to the model."""
        return {"context_length": self.context_length, "stride": self.step}


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """What the caller of a metric chose, checked as far as it can be without a model."""

    context_length: int | None  # tokens of a window; None: `default`, or less where a model has less
    stride: int | None  # tokens from window to window; None: half a window
    default: int
    metric: str  # the metric's function, in messages

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            InvalidInputError: One of them is no number of tokens, or the stride leaves tokens out.
        """
        for name, least in (("context_length", 2), ("stride", 1)):
            object.__setattr__(self, name, self._whole_number(name, getattr(self, name), least))
        if self.context_length is not None and self.stride is not None and self.stride > self.context_length:
            raise self._too_wide(self.stride, self.context_length)

    def windows(self, *limits: int) -> Windows:
        """The windows for models with these longest contexts.

        Raises:
            InvalidInputError: A window is longer than a model's context, or shorter than the stride, or the context
                has no room for a token and what comes before it.
        """
        longest = min(limits)
        if longest < 2:
            raise InvalidInputError(f"{self.metric} needs a model with a context of at least 2 tokens, got {longest}.")
        context_length = min(self.default, longest) if self.context_length is None else self.context_length
        if context_length > longest:
            raise InvalidInputError(
                f"{self.metric}(context_length={context_length}) is longer than the model's context of {longest}. "
                f"Give at most {longest}, or None."
            )
        stride = max(1, context_length // 2) if self.stride is None else self.stride
        if stride > context_length:
            raise self._too_wide(stride, context_length)
        return Windows(context_length, stride)

    def as_json(self) -> dict[str, Any]:
        """For the metric's metadata."""
        context_length = self.context_length or f"{self.default}, or the model's context where that is shorter"
        return {"context_length": context_length, "stride": self.stride or "half the context_length"}

    def _whole_number(self, name: str, value: Any, least: int) -> int | None:
        if value is None:
            return None
        try:
            number = operator.index(value)
        except TypeError:
            number = least - 1
        if isinstance(value, bool) or number < least:
            raise InvalidInputError(f"{self.metric}({name}=...) must be a whole number from {least}, got {value!r}.")
        return number

    def _too_wide(self, stride: int, context_length: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self.metric}(stride={stride}) is longer than a window of {context_length} tokens, so it would leave "
            f"tokens out. Give at most {context_length}."
        )

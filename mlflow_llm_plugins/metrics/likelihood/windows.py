"""Texts longer than a context, scored in windows that overlap, each token once."""

from __future__ import annotations

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

    def of(self, tokens: int) -> Iterator[Window]:
        """The windows of a text of that many tokens; together they score all of them but the first."""
        step = min(self.stride, self.context_length - 1)
        start, first = 0, 1
        while first < tokens:
            end = min(start + self.context_length, tokens)
            yield Window(start, end, first)
            start, first = start + step, end

    def tokens_of(self, tokens: int) -> int:
        """Tokens that a model computes for a text of that many."""
        return sum(window.end - window.start for window in self.of(tokens))


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
        self._check("context_length", self.context_length, least=2)
        self._check("stride", self.stride, least=1)
        if self.context_length is not None and self.stride is not None and self.stride > self.context_length:
            raise self._too_wide(self.stride, self.context_length)

    def windows(self, *limits: int) -> Windows:
        """The windows for models with these longest contexts.

        Raises:
            InvalidInputError: A window is longer than a model's context, or shorter than the stride.
        """
        longest = min(limits)
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

    def _check(self, name: str, value: object, least: int) -> None:
        if value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InvalidInputError(f"{self.metric}({name}=...) must be a whole number from {least}, got {value!r}.")

    def _too_wide(self, stride: int, context_length: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self.metric}(stride={stride}) is longer than a window of {context_length} tokens, so it would leave "
            f"tokens out. Give at most {context_length}."
        )

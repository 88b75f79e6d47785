"""Engines as metrics see them, and how one is found behind a loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from mlflow_llm_plugins.errors import InvalidInputError

Text = str | Sequence[int]  # a string, tokenised by the engine, or token ids as they are


@runtime_checkable
class ScoringEngine(Protocol):
    """What metrics ask of a model; all methods may be called from any thread."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template; read only."""

    def score(self, texts: Sequence[Text], top_logprobs: int = 0) -> Sequence[Sequence[float]]:
        """For a text of n tokens n - 1 natural logarithms: entry i belongs to token i + 1."""

    def choose(self, prompts: Sequence[Text], choices: Sequence[Any]) -> Sequence[Sequence[float]]:
        """A row for each prompt: the log-probability of each choice as its continuation, unnormalised."""

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[Any]:
        """Raw logits behind the tokens `first - 1` to n - 2, so those that predict the tokens `first` to n - 1.

        A text that is refused raises `InvalidInputError`, at once or when the first slice is asked for.

        Yields:
            Slices in order, float32 numpy arrays of [some positions, vocabulary]; each is only valid until the next.
        """

    def stats(self) -> Any:
        """With `max_context_length`, in tokens."""


def engine_of(model: Any, what: str) -> ScoringEngine:
    """The engine of a loaded model, or the model itself if it is one.

    Raises:
        InvalidInputError: It has none.
    """
    engine = find_engine(model)
    if engine is None:
        raise InvalidInputError(
            f"{what} needs a model whose probabilities can be read: one of the flavor quantized_llm, by its URI or "
            f"loaded in this process, got {type(model).__name__}."
        )
    return engine


def find_engine(model: Any) -> ScoringEngine | None:
    """The engine of a loaded model, or the model itself if it is one; None where it has none."""
    if isinstance(model, ScoringEngine):
        return model
    implementation: Any = getattr(model, "_model_impl", None)
    raw = implementation.get_raw_model() if hasattr(implementation, "get_raw_model") else None
    return raw if isinstance(raw, ScoringEngine) else None

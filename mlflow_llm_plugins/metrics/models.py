"""Models that metrics ask: engines, seen as a Protocol, and how a URI becomes one."""

from __future__ import annotations

import threading
import weakref
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

        Yields:
            Slices in order, float32 numpy arrays of [some positions, vocabulary]; each is only valid until the next.
        """

    def stats(self) -> Any:
        """With `max_context_length`, in tokens."""


class ModelHandle:
    """A model by its URI, loaded when it is first asked for, once; or an engine or pyfunc model as it is.

    Thread-safe. What was loaded is closed by `close`, at the latest when the handle is forgotten or Python ends.
    """

    def __init__(self, model: Any, what: str) -> None:
        """Take the model.

        Args:
            model: `models:/...`, `runs:/...` or the path of a model of the flavor `quantized_llm`; or such a model as
                `mlflow.pyfunc.load_model` gives it; or an engine.
            what: What it is for, in messages, for example "perplexity(model=...)".
        """
        self._model = model
        self._what = what
        self._engine: ScoringEngine | None = None
        self._lock = threading.Lock()
        self._closing: weakref.finalize | None = None  # type: ignore[type-arg]

    def engine(self) -> ScoringEngine:
        """The engine.

        Raises:
            InvalidInputError: There is no such model, or it is of another flavor.
        """
        with self._lock:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def close(self) -> None:
        """Free what was loaded here; asked again, it is loaded again."""
        with self._lock:
            if self._closing is not None:
                self._closing()
            self._engine = self._closing = None

    def _open(self) -> ScoringEngine:
        if not isinstance(self._model, str):
            return engine_of(self._model, self._what)
        import mlflow

        try:
            loaded = mlflow.pyfunc.load_model(self._model)
        except Exception as error:
            raise InvalidInputError(f"{self._what}: {self._model!r} cannot be loaded: {error}") from error
        engine = engine_of(loaded, self._what)
        self._closing = weakref.finalize(self, engine.close)  # type: ignore[attr-defined]
        return engine


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

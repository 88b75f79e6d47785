"""Models that metrics ask: engines, seen as a Protocol, and how a URI becomes one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
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
    """A model by its URI, loaded when it is first asked for; or an engine or pyfunc model as it is.

    Thread-safe. Handles of one version of a model share what one of them has loaded; it is closed when the last of
    them is closed or forgotten, at the latest when Python ends.
    """

    def __init__(self, model: Any, what: str) -> None:
        """Take the model.

        Args:
            model: `models:/...`, `runs:/...` or the path of a model of the flavor `quantized_llm`; or such a model as
                `mlflow.pyfunc.load_model` gives it; or an engine.
            what: What it is for, in messages, for example "perplexity(model=...)".
        """
        self._given = model
        self._what = what
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model in records: its URI, that of the logged model, or its type."""
        if isinstance(self._given, str):
            return self._given
        model_id = getattr(self._given, "model_id", None)  # of a logged model, loaded by MLflow
        return f"models:/{model_id}" if isinstance(model_id, str) else type(self._given).__name__

    def engine(self) -> ScoringEngine:
        """The engine.

        Raises:
            InvalidInputError: There is no such model, or it is of another flavor.
        """
        return engine_of(self.model(), self._what)

    def model(self) -> Any:
        """The pyfunc model, or the engine where one was given.

        Raises:
            InvalidInputError: As `engine`.
        """
        if not isinstance(self._given, str):
            return self._given
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._given, self._what)
            return self._loaded.model

    def close(self) -> None:
        """Let go of what was loaded; asked again, it is loaded again."""
        with self._lock:
            self._loaded = None


class _Loaded:
    """A model that was loaded here, closed when nothing holds this object any more."""

    def __init__(self, model: Any, engine: Any) -> None:
        self.model = model
        weakref.finalize(self, engine.close)


_loaded: weakref.WeakValueDictionary[tuple[str, str], _Loaded] = weakref.WeakValueDictionary()
_loading = threading.Lock()  # two handles of one model load it once


def _load(uri: str, what: str) -> _Loaded:
    version = _version_of(uri)
    with _loading:
        found = None if version is None else _loaded.get(version)
        if found is None:
            found = _open(uri, what)
            if version is not None:
                _loaded[version] = found
        return found


def load_quietly(uri: str, **options: Any) -> Any:
    """`mlflow.pyfunc.load_model`, which makes a logged model the active one of its thread: in a thread of its own.

    Later evaluations in the caller's thread would count as those of the model that was loaded last.
    """
    import mlflow

    with ThreadPoolExecutor(1, thread_name_prefix="llm-load") as executor:
        return executor.submit(copy_context().run, partial(mlflow.pyfunc.load_model, uri, **options)).result()


def _open(uri: str, what: str) -> _Loaded:
    try:
        model = load_quietly(uri)
    except Exception as error:
        raise InvalidInputError(f"{what}: {uri!r} cannot be loaded: {error}") from error
    return _Loaded(model, engine_of(model, what))


def _version_of(uri: str) -> tuple[str, str] | None:
    """What never changes of a logged or registered model; an alias may point elsewhere later, a path hold others."""
    import mlflow

    if not uri.startswith("models:/"):
        return None
    try:
        from mlflow.store.artifact.utils.models import _parse_model_uri, get_model_name_and_version

        logged = _parse_model_uri(uri).model_id
        if logged is not None:
            return mlflow.get_tracking_uri(), str(logged)
        name, version = get_model_name_and_version(mlflow.MlflowClient(), uri)
    except Exception:  # no such model, or another MLflow: loading it says more
        return None
    return mlflow.get_registry_uri(), f"{name}/{version}"


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

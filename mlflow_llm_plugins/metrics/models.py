"""Models that metrics ask, by their URI: loaded when they are first asked, shared, and closed after the last use."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.metrics.engines import ScoringEngine, engine_of

_LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})/?")  # as the source of a registered version (MLflow 3)


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
        if isinstance(self._given, str | os.PathLike):
            return os.fspath(self._given)
        model_id = getattr(self._given, "model_id", None)  # of a logged model, loaded by MLflow
        return f"models:/{model_id}" if isinstance(model_id, str) else type(self._given).__name__

    @property
    def origin(self) -> Mapping[str, str]:
        """What a URI stood for when it was loaded: `version` of a registered model, `model_id`; empty before that."""
        with self._lock:
            return {} if self._loaded is None else dict(self._loaded.origin)

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
        if not isinstance(self._given, str | os.PathLike):
            return self._given
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(os.fspath(self._given), self._what)
            return self._loaded.model

    def close(self) -> None:
        """Let go of what was loaded; asked again, it is loaded again."""
        with self._lock:
            self._loaded = None


class _Loaded:
    """A model that was loaded here, closed when nothing holds this object any more."""

    def __init__(self, model: Any, engine: Any, origin: Mapping[str, str]) -> None:
        self.model = model
        self.origin = origin
        weakref.finalize(self, engine.close)


@dataclass(frozen=True, slots=True)
class _Version:
    """What a URI stands for now, in terms that never change."""

    key: tuple[str, str]  # where it is kept, and what it is there
    uri: str  # without aliases and the like
    origin: Mapping[str, str]


_loaded: weakref.WeakValueDictionary[tuple[str, str], _Loaded] = weakref.WeakValueDictionary()
_loading = threading.Lock()  # two handles of one model load it once


def _load(uri: str, what: str) -> _Loaded:
    version = _version_of(uri)
    with _loading:
        found = None if version is None else _loaded.get(version.key)
        if found is None:
            found = _open(uri, what) if version is None else _open(version.uri, what, version.origin)
            if version is not None:
                _loaded[version.key] = found
        return found


def load_quietly(uri: str, **options: Any) -> Any:
    """`mlflow.pyfunc.load_model`, but the active model stays what it is.

    MLflow makes a logged model that is loaded the active one of the thread (3.0 to 3.17), and whatever is evaluated
    later without a model would count as an evaluation of that one.
    """
    import mlflow

    with _active_model_kept():
        return mlflow.pyfunc.load_model(uri, **options)


@contextmanager
def _active_model_kept() -> Iterator[None]:
    from mlflow.tracking import fluent

    active = getattr(fluent, "_ACTIVE_MODEL_CONTEXT", None)
    before = None if active is None else active.get()
    try:
        yield
    finally:
        if active is not None:
            active.set(before)


def _open(uri: str, what: str, origin: Mapping[str, str] = MappingProxyType({})) -> _Loaded:
    try:
        model = load_quietly(uri)
    except LLMError:
        raise
    except Exception as error:
        raise InvalidInputError(f"{what}: {uri!r} cannot be loaded: {error}") from error
    if model is None:  # MLflow loses the error where it cannot turn tracing on again (seen with 3.11)
        raise InvalidInputError(
            f"{what}: {uri!r} cannot be loaded, and MLflow does not tell why because its tracking store cannot be "
            "read, see its warning. Set MLFLOW_TRACKING_URI to one that can, then load it again."
        )
    return _Loaded(model, engine_of(model, what), origin)


def _version_of(uri: str) -> _Version | None:
    """The logged or registered model; None for what may be another one later, such as the content of a path."""
    import mlflow

    if not uri.startswith("models:/"):
        return None
    try:
        from mlflow.store.artifact.utils.models import _parse_model_uri, get_model_name_and_version

        logged = _parse_model_uri(uri).model_id
        if logged is not None:
            return _Version((mlflow.get_tracking_uri(), str(logged)), uri, {"model_id": str(logged)})
        client = mlflow.MlflowClient()
        name, version = get_model_name_and_version(client, uri)
        return _registered(client.get_model_version(name, version))
    except Exception:  # no such model, or another MLflow: loading it says more
        return None


def _registered(version: Any) -> _Version:
    """A registered version is that of a logged model, or what was registered then: names and numbers come again."""
    import mlflow

    uri = f"models:/{version.name}/{version.version}"
    if logged := _LOGGED.fullmatch(str(version.source)):
        return _Version((mlflow.get_tracking_uri(), logged[1]), uri, {"version": uri, "model_id": logged[1]})
    created = f"{uri} {version.creation_timestamp} {version.source}"
    return _Version((mlflow.get_registry_uri(), created), uri, {"version": uri})

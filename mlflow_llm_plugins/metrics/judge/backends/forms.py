"""What a user can give as a judge, and which backend that means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from inspect import signature
from typing import Any, cast

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean, resolve
from mlflow_llm_plugins.metrics.engines import find_engine
from mlflow_llm_plugins.metrics.judge.backends.function import can_take
from mlflow_llm_plugins.metrics.judge.backends.server_url import without_key
from mlflow_llm_plugins.metrics.judge.question import JudgeBackend

SCHEMES = {  # what stands before ":/" -> kind
    **dict.fromkeys(("models", "runs", "file", "mlflow-artifacts", "dbfs", "s3", "gs", "wasbs", "abfss"), "local"),
    **dict.fromkeys(("http", "https"), "server"),
    **dict.fromkeys(("deployments", "endpoints"), "deployment"),
}
FORMS = (
    "a model of the flavor quantized_llm, by its URI ('models:/judge/1', 'runs:/...', a directory) or loaded in this "
    "process; 'deployments:/name' or 'endpoints:/name'; a server, 'http://host:port/v1#model'; a judge of MLflow, for "
    "example 'openai:/gpt-4o'; a function from the question's text to a label; 'package.module:name' of such a "
    "function or of a factory without arguments; or a dictionary with 'url' (and 'model', 'api_key_env', ...) or "
    "'uri' (one of the strings before), and settings"
)

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*):/")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")
_PASSWORD = re.compile(r"[^/]*://[^/@]*:[^/@]*@")  # Azure's URIs have a container there, and no colon
_METHODS = ("ask", "describe", "close")  # of JudgeBackend
_DATABRICKS = "databricks"  # MLflow's name for the judge that Databricks hosts
_SHOWN = 80  # characters of what was given


def backend_of(judge: Any) -> JudgeBackend:
    """The backend that a judge means; nothing is loaded, asked or connected before its first question.

    Args:
        judge: As `FORMS` says, or an object that implements `JudgeBackend`, which is returned as it is.

    Raises:
        InvalidInputError: It is none of these, or its settings are wrong; says what can be given.
    """
    if isinstance(judge, os.PathLike):
        judge = os.fspath(judge)
    if isinstance(judge, str):
        return _of_string(judge, {})
    if isinstance(judge, Mapping):
        return _of_mapping(judge)
    return _of_object(judge)


def _of_object(judge: Any) -> JudgeBackend:
    if _is_backend(judge):
        return cast(JudgeBackend, judge)
    if _is_scorer(judge):
        raise InvalidInputError(
            f"judge={_shown(judge)} is a scorer of MLflow, which asks a question of its own. Give its model, such as "
            "'openai:/gpt-4o', as judge and its instructions as criteria, or give the scorer to mlflow.genai.evaluate."
        )
    if find_engine(judge) is not None or hasattr(judge, "_model_impl"):  # an engine, or a model of MLflow's pyfunc
        return _made("local", judge, {})
    if callable(judge):
        return _made("function", judge, {})
    raise InvalidInputError(f"judge={_shown(judge)} cannot be asked. It can be {FORMS}.")


def _of_mapping(judge: Mapping[str, Any]) -> JudgeBackend:
    settings = dict(judge)
    given = [key for key in ("url", "uri") if key in settings]
    if len(given) != 1 or not isinstance(settings[given[0]], str):
        keys = ", ".join(map(repr, settings)) or "none"
        raise InvalidInputError(f"judge: a dictionary needs either 'url' or 'uri', a string; its keys are: {keys}.")
    target = settings.pop(given[0])
    return _made("server", target, settings) if given[0] == "url" else _of_string(target, settings)


def _of_string(judge: str, settings: dict[str, Any]) -> JudgeBackend:
    if _PASSWORD.match(judge):
        without_key(judge, "a URI")
    if _LOGGED_MODEL.fullmatch(judge):
        return _made("local", f"models:/{judge}", settings)
    if os.path.isfile(os.path.join(judge, "MLmodel")):
        return _made("local", judge, settings)
    if judge == _DATABRICKS:
        return _made("mlflow", judge, settings)
    if scheme := _SCHEME.match(judge):
        return _made(_kind_of(scheme[1].lower(), judge), judge, settings)
    if _FACTORY.fullmatch(judge) and judge.partition(":")[0] not in SCHEMES and not settings:
        return _of_factory(judge)
    raise InvalidInputError(f"judge={_shown(judge)} is no judge.{_hint(judge)} It can be {FORMS}.")


def _kind_of(scheme: str, judge: str) -> str:
    if scheme in SCHEMES:
        return SCHEMES[scheme]
    from mlflow_llm_plugins.metrics.judge.backends.mlflow_judge import is_askable, providers

    if is_askable(scheme):
        return "mlflow"
    meant = did_you_mean(scheme, [*SCHEMES, *providers()])
    raise InvalidInputError(
        f"judge={_shown(judge)}: neither a model nor a provider that MLflow's judges know.{meant} It can be {FORMS}."
    )


def _of_factory(path: str) -> JudgeBackend:
    found = resolve(path, {}, "judge")
    if isinstance(found, type) and not can_take(found):
        raise InvalidInputError(
            f"judge={path!r} cannot be made without arguments; it takes {signature(found)}. Name an object of it, or "
            "a function that makes one."
        )
    made = found() if _is_factory(found) else found
    if isinstance(made, str | Mapping):
        raise InvalidInputError(f"judge={path!r} gave a {type(made).__name__}; it must give a backend or a function.")
    return _of_object(made)


def _is_factory(found: Any) -> bool:
    """Whether it makes a judge: what takes the text of a question is one."""
    if isinstance(found, type):
        return True
    return callable(found) and not _is_backend(found) and not _is_scorer(found) and can_take(found)


def _is_backend(judge: Any) -> bool:
    return not isinstance(judge, type) and all(callable(getattr(judge, name, None)) for name in _METHODS)


def _is_scorer(judge: Any) -> bool:
    """Whether it is one of MLflow's, such as `make_judge` makes; told by name, as importing them takes seconds."""
    return any(base.__module__.startswith("mlflow.genai.") for base in type(judge).__mro__)


def _made(kind: str, target: Any, settings: dict[str, Any]) -> JudgeBackend:
    if settings and kind == "local":
        raise InvalidInputError(
            f"judge: a model in this process has no settings here, got {', '.join(map(repr, settings))}. Load it with "
            "mlflow.pyfunc.load_model(uri, model_config={...}) and give the model."
        )
    from mlflow_llm_plugins.metrics.judge.backends import JUDGES  # which imports this file

    backend: JudgeBackend = resolve(kind, JUDGES, "judge")(target, **settings)
    return backend


def _hint(judge: str) -> str:
    """For a path without a model, or a scheme with a slash too few."""
    if os.path.isdir(judge):
        return " There is no MLmodel in that directory."
    scheme, separator, rest = judge.partition(":")
    if separator and scheme.lower() in SCHEMES:  # "models:judge"
        return f" Did you mean '{scheme}:/{rest.lstrip('/')}'?"
    return ""


def _shown(judge: Any) -> str:
    """What was given, cut; of a URL nothing before the host, where somebody may have put a key."""
    text = re.sub(r"//\S*@", "//...@", judge) if isinstance(judge, str) else None
    shown = type(judge).__name__ if text is None else repr(text)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"

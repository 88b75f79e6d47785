"""What users write for a metric, to the metric."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.lookup import did_you_mean, resolve
from mlflow_llm_plugins.metrics import METRICS
from mlflow_llm_plugins.metrics.metric import EvaluationMetric

_EVALUATE = "evaluate:"


def metric_of(spec: Any) -> EvaluationMetric:
    """The metric that is meant.

    Args:
        spec: A metric of this package, of MLflow or of your own, as it is; a name in `METRICS`, made with defaults;
            "evaluate:NAME" for one of Hugging Face's evaluate; "package.module:factory" for one from outside; or the
            function that makes one.

    Raises:
        InvalidInputError: Nothing is known by that name, or making the metric needs arguments.
        MissingDependencyError: The metric needs a package that is not installed.
    """
    if isinstance(spec, EvaluationMetric):
        return spec
    if isinstance(spec, str):
        return _named(spec)
    if callable(spec):
        return _made(spec, getattr(spec, "__name__", type(spec).__name__))
    raise InvalidInputError(f"A metric must be given as {_forms()}; got {spec!r}.")


def metrics_of(*lists: Iterable[Any] | None) -> list[EvaluationMetric]:
    """The metrics that are meant, in order; None: none.

    Args:
        *lists: What `metric_of` takes, one list behind the other.

    Raises:
        InvalidInputError: As `metric_of`; it is no list; or two have the same name and version, so the same keys in
            the results.
    """
    listed = [spec for specs in lists for spec in _listed(specs)]
    metrics = [metric_of(spec) for spec in listed]
    seen: dict[tuple[str, str | None], int] = {}
    for number, metric in enumerate(metrics):
        first = seen.setdefault((metric.name, metric.version), number)
        if first != number:
            raise InvalidInputError(_same_keys(metric, (first, listed[first]), (number, listed[number])))
    return metrics


def _listed(specs: Any) -> Iterable[Any]:
    if isinstance(specs, str | EvaluationMetric | Mapping) or not isinstance(specs, Iterable | None):
        raise InvalidInputError(f"extra_metrics must be a list of metrics, got {specs!r}. Put it in brackets.")
    return () if specs is None else specs


def _named(spec: str) -> EvaluationMetric:
    if spec.startswith(_EVALUATE):
        from mlflow_llm_plugins.metrics.reference.hub_metric import evaluate_metric

        return evaluate_metric(spec.removeprefix(_EVALUATE))
    if spec not in METRICS and ":" not in spec:
        raise InvalidInputError(
            f"Unknown metric {spec!r}.{did_you_mean(spec, METRICS)} Known: {', '.join(sorted(METRICS))}; or "
            "'evaluate:NAME' for one of Hugging Face's evaluate, or 'package.module:factory' for one of your own."
        )
    found = resolve(spec, METRICS, "metric")
    return found if isinstance(found, EvaluationMetric) else _made(found, spec)


def _made(factory: Any, spec: str) -> EvaluationMetric:
    if not callable(factory):
        raise InvalidInputError(f"{spec!r} is of type {type(factory).__name__}, neither a metric nor what makes one.")
    if needed := _needed(factory):
        name = getattr(factory, "__name__", spec)
        arguments = ", ".join(f"{argument}=..." for argument in needed)
        raise InvalidInputError(f"Metric {spec!r} needs arguments: give {name}({arguments}) instead of its name.")
    try:
        made = factory()
    except LLMError:
        raise
    except Exception as error:
        raise InvalidInputError(f"Metric {spec!r} cannot be made: {error}") from error
    if not isinstance(made, EvaluationMetric):
        raise InvalidInputError(f"{spec!r} must make a metric, an EvaluationMetric, but made {type(made).__name__}.")
    return made


def _needed(factory: Callable[..., Any]) -> list[str]:
    """The parameters without a default; none where Python cannot tell, as for some classes written in C."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]


def _same_keys(metric: EvaluationMetric, *pair: tuple[int, Any]) -> str:
    key = f"{metric.name}/{metric.version}" if metric.version else metric.name
    both = " and ".join(f"number {number + 1} ({_shown(spec)})" for number, spec in pair)
    return f"Two metrics would have the same keys {key!r}: {both}. Leave one out, or give it another name: name=..."


def _shown(spec: Any) -> str:
    if isinstance(spec, str):
        return repr(spec)
    return f"{type(spec).__name__} {getattr(spec, 'name', None) or getattr(spec, '__name__', '')!s}"


def _forms() -> str:
    return "a metric, its name, 'evaluate:NAME', 'package.module:factory' or the function that makes it"

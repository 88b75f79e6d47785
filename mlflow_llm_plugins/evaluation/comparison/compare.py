"""`compare_models`: variants evaluated one after another on the same data, and how they differ."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.errors import GenerationError, InvalidInputError, mlflow_errors
from mlflow_llm_plugins.evaluation.columns import parameters_of
from mlflow_llm_plugins.evaluation.comparison.bootstrap import BootstrapOptions
from mlflow_llm_plugins.evaluation.comparison.checks import check_variants, refuse_self_judging
from mlflow_llm_plugins.evaluation.comparison.data import ComparedData
from mlflow_llm_plugins.evaluation.comparison.differences import differences_table
from mlflow_llm_plugins.evaluation.comparison.log import log_plots, log_tables, tag_parent
from mlflow_llm_plugins.evaluation.comparison.measures import Measure, main_quality, measures_of
from mlflow_llm_plugins.evaluation.comparison.pareto_points import pareto_points
from mlflow_llm_plugins.evaluation.comparison.plots.differences_chart import differences_chart
from mlflow_llm_plugins.evaluation.comparison.plots.metrics_chart import metrics_chart
from mlflow_llm_plugins.evaluation.comparison.plots.pareto_chart import pareto_chart
from mlflow_llm_plugins.evaluation.comparison.scores import scores_table
from mlflow_llm_plugins.evaluation.comparison.summary import summary_table
from mlflow_llm_plugins.evaluation.comparison.trial import TIMING, Setup, Trial, run_trial
from mlflow_llm_plugins.evaluation.comparison.variant import Variant, variants_of
from mlflow_llm_plugins.evaluation.model_types import default_metrics
from mlflow_llm_plugins.evaluation.settings import parse_settings
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.metric import LLMMetric
from mlflow_llm_plugins.metrics.naming import metric_of, metrics_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_models` returns; the tables are logged too."""

    table: pd.DataFrame  # one row a variant: quality, latency, throughput, memory, size, or its error
    differences: pd.DataFrame  # one row a metric and variant, against the baseline
    scores: pd.DataFrame  # one row a metric, variant and group: the mean with its interval
    run_id: str  # the parent's
    run_ids: Mapping[str, str]  # of each variant
    artifacts: Mapping[str, str]  # name -> file in the parent run


def compare_models(
    models: Mapping[str, Any],
    data: Any,
    *,
    targets: Any = None,
    model_type: str | None = "llm",
    metrics: Sequence[Any] | None = None,
    extra_metrics: Sequence[Any] | None = None,
    evaluator_config: Mapping[str, Any] | None = None,
    baseline: str | None = None,
    quality: str | None = None,
    group_by: str | None = None,
    confidence_level: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
    run_name: str | None = None,
) -> Comparison:
    """Evaluate several models, prompts or settings on the same data and say how they differ, with intervals.

    Each variant is evaluated by the evaluator `llm` in a run of its own below the parent run, one after another, so
    that only one model is loaded at a time. One that fails as a whole is recorded with its reason; the others go on.

    Intervals are of resampled rows, paired by position (BCa bootstrap); those of fewer than 50 rows are indicative.
    One takes about 0.02 seconds for 200 rows and one to four for 10,000. They are not adjusted for the number of
    metrics and variants: of twenty metrics that do not differ, one is expected to look as if it did at 0.95. There is
    no verdict of fewer than 10 rows, of fewer than 6 that differ, or of times, which are measured once a variant:
    resampling does not show what else the machine did meanwhile.

    Each figure of the table is of the rows that its variant has. Differences and the Pareto plot are of rows that
    both, or all, have; what cannot be computed of these is NaN, with a note.

    `model/loaded_weight_bytes` is what a model of our flavor takes in memory, as quantized; `model/weight_bytes` its
    files. `memory_growth/rss_bytes` of models given by URI is the peak of this process's resident memory minus what
    it was before the model was loaded. It depends on the order: the first one also shows what is loaded once for all,
    such as libraries and judges, and allocators keep pages that an earlier variant freed.

    Args:
        models: Name -> a URI, a pyfunc model, a function or "endpoints:/name"; or a `Variant`, or its dictionary:
            `{"model": ..., "prompt_template": "Answer briefly: {inputs}", "params": {...}, "model_config": {...}}`,
            or `{"predictions": "column"}`. With a template, metrics see as `inputs` what the model was asked.
        data: As for `mlflow.models.evaluate`.
        targets: The column of references.
        model_type: Chooses the metrics where `metrics` names none.
        metrics: Names or objects, instead of those of the model type and of the latencies.
        extra_metrics: In addition.
        evaluator_config: Of the evaluator `llm`.
        baseline: The variant that others are compared with; None: the first.
        quality: The metric of the Pareto plot; None: the first that reads targets, else the first, of those of which
            more or less is better.
        group_by: A column; scores and bars are for each of its values, for example of a column `dataset`. Models are
            not asked with it, nor with the finished predictions of others, unless a metric reads the column.
        confidence_level: Of all intervals.
        n_resamples: Of each bootstrap.
        seed: Of each bootstrap.
        run_name: Of a new parent run. None: the active run is the parent, or a new one where there is none.

    Returns:
        The tables, and where they are logged: `comparison.json`, `comparison_differences.json`,
        `comparison_scores.json` and the plots `comparison_metrics.png`, `comparison_differences.png` and
        `comparison_pareto.png` of the parent run, with a number where it has such a file already.

    Raises:
        MlflowException: Something cannot be used, said before a model is loaded; or all variants failed, after the
            table was logged.
    """
    with mlflow_errors():
        options = BootstrapOptions(confidence_level, n_resamples, seed)
        variants = variants_of(models)
        base = _baseline(baseline, variants)
        setup = _setup(ComparedData.of(data, targets), model_type, metrics, extra_metrics, evaluator_config)
        group_by = None if group_by is None else str(group_by)
        setup.data.check(variants, group_by, setup.asked_column)
        measures = measures_of(_all_metrics(setup))
        chosen = _quality(quality, measures)
        setup = _hiding(setup, variants, group_by, measures)
        refuse_self_judging(measure.metric for measure in measures if measure.metric is not None)
        check_variants(variants, setup)
        groups = None if group_by is None else setup.data.groups(group_by)
        with _parent(run_name) as run_id:
            tag_parent(list(variants), base, run_id)
            trials = _run_all(variants, setup)
            tables = {
                "comparison": summary_table(trials, base, measures),
                "comparison_differences": differences_table(trials, base, measures, options),
                "comparison_scores": scores_table(trials, measures, groups, options),
            }
            files = log_tables(tables, run_id)
            _raise_if_all_failed(trials, base)
            plots = _plots(tables, trials, chosen, measures, confidence_level) if setup.settings.plots else {}
            return _comparison(tables, trials, run_id, files, log_plots(plots, run_id))


def _plots(
    tables: Mapping[str, pd.DataFrame],
    trials: Sequence[Trial],
    quality: Measure | None,
    measures: Sequence[Measure],
    level: float,
) -> dict[str, Callable[[], Any]]:
    table, differences, scores = tables.values()
    return {
        "comparison_metrics": partial(metrics_chart, scores, table, level),
        "comparison_differences": partial(differences_chart, differences, level),
        "comparison_pareto": lambda: pareto_chart(pareto_points(trials, quality, measures)),
    }


def _comparison(
    tables: Mapping[str, pd.DataFrame],
    trials: Sequence[Trial],
    run_id: str,
    files: Mapping[str, str],
    images: Mapping[str, str],
) -> Comparison:
    table, differences, scores = tables.values()
    artifacts = {**files, **{f"{name}_plot": file for name, file in images.items()}}
    run_ids = {trial.name: trial.run_id for trial in trials}
    return Comparison(table, differences, scores, run_id, run_ids, artifacts)


def _run_all(variants: Mapping[str, Variant], setup: Setup) -> list[Trial]:
    from tqdm import tqdm

    disable = None if setup.settings.progress and len(variants) > 1 else True  # None: shown on a terminal only
    trials = []
    with tqdm(variants.items(), desc="Comparing", unit="variant", disable=disable) as bar:
        for name, variant in bar:
            bar.set_postfix_str(name)
            trials.append(run_trial(name, variant, setup))
    return trials


def _raise_if_all_failed(trials: Sequence[Trial], baseline: str) -> None:
    failed = [trial for trial in trials if trial.error is not None]
    if len(failed) == len(trials):
        first = failed[0]
        raise GenerationError(f"No variant has a result; {first.name!r}, for example: {first.error}")
    if any(trial.name == baseline for trial in failed):
        _logger.warning("The baseline %r has no result, so there are no differences.", baseline)


def _setup(
    data: ComparedData, model_type: str | None, metrics: Any, extra_metrics: Any, evaluator_config: Any
) -> Setup:
    settings = parse_settings(evaluator_config)
    if isinstance(data.targets, str):  # a name of the mapping, as MLflow has it
        mapped = settings.col_mapping.get(data.targets, data.targets)
        data = replace(data, targets=mapped) if isinstance(mapped, str) else data
    if metrics is not None:
        if settings.metrics is not None:
            raise InvalidInputError("metrics are given twice: as an argument and in evaluator_config; leave one out.")
        settings = settings.model_copy(update={"metrics": [_measured_here(metric) for metric in metrics_of(metrics)]})
    extra = [_measured_here(metric) for metric in metrics_of(extra_metrics)]
    default_metrics(model_type)  # raises where there is no such type
    return Setup(data, model_type, settings, extra, adds_timing=settings.metrics is None)


def _hiding(setup: Setup, variants: Mapping[str, Variant], group_by: str | None, measures: Sequence[Measure]) -> Setup:
    """Models are asked neither with the answers of others nor with the column of groups."""
    read = {name for measure in measures if measure.metric for name in parameters_of(measure.metric)}
    mapped = {column for column in setup.settings.col_mapping.values() if isinstance(column, str)}
    columns = [group_by, *(variant.predictions for variant in variants.values())]
    return replace(setup, data=setup.data.without(columns, read | mapped))


def _all_metrics(setup: Setup) -> list[EvaluationMetric]:
    """All that any variant may have, in the order of the tables."""
    named = setup.settings.metrics
    timing = [metric_of(name) for name in TIMING] if setup.adds_timing else []
    listed = [metric_of(name) for name in default_metrics(setup.model_type)] if named is None else metrics_of(named)
    found = {metric.name: metric for metric in [*timing, *listed]} | {m.name: m for m in setup.extra_metrics}
    order = dict.fromkeys(metric.name for metric in [*setup.extra_metrics, *listed, *timing])
    return [found[name] for name in order]


def _measured_here(metric: EvaluationMetric) -> EvaluationMetric:
    """MLflow's own `latency()` as ours, as the evaluator does it."""
    return metric if isinstance(metric, LLMMetric) or metric.name != TIMING[0] else metric_of(TIMING[0])


def _baseline(name: str | None, variants: Mapping[str, Variant]) -> str:
    if name is None:
        return next(iter(variants))
    if name not in variants:
        raise InvalidInputError(
            f"baseline: there is no variant {name!r}.{did_you_mean(name, variants)} There are: {', '.join(variants)}."
        )
    return name


def _quality(name: str | None, measures: Sequence[Measure]) -> Measure | None:
    if name is None:
        return main_quality(measures)
    known = {measure.name: measure for measure in measures if measure.is_quality}
    if name not in known:
        is_there = any(measure.name == name for measure in measures)
        problem = f"{name!r} has no better side" if is_there else f"there is no metric {name!r} in this comparison"
        raise InvalidInputError(f"quality: {problem}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    return known[name]


@contextmanager
def _parent(run_name: str | None) -> Iterator[str]:
    """The active run, which stays active, or a new one for the time of the comparison."""
    import mlflow

    active = mlflow.active_run()
    if active is not None and run_name is None:
        yield active.info.run_id
        return
    with mlflow.start_run(run_name=run_name, nested=True) as run:
        yield run.info.run_id

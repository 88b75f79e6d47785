"""One evaluation by MLflow: the same model, rows and metrics for every evaluator, after the model has warmed up."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.evaluated.job import Job, Result
from benchmarks.evaluated.stopwatch import Parts, Stopwatch
from benchmarks.served.loads import Wording
from benchmarks.servers.artifacts import CHECKPOINT, WORDING
from mlflow_llm_plugins.mlflow_hooks import SWITCH

OURS, STOCK = "ours", "stock"
WITH_LATENCY, WITHOUT_LATENCY = "with latency()", "without latency()"
LOADS = (WITH_LATENCY, WITHOUT_LATENCY)
QUESTION_WORDS, TARGET_WORDS = 40, 16

EVALUATORS = {OURS: "llm", STOCK: "default"}  # contender -> evaluator of MLflow
ENVIRONMENTS = {OURS: {SWITCH: "1"}, STOCK: {SWITCH: "0"}}


def evaluate(job: Job) -> Result:
    """Evaluate once; the time is that of `mlflow.models.evaluate`, with all that it logs."""
    import mlflow

    parts, watch = Parts(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder, opened(job) as model:
        track_in(Path(folder))
        data, metrics = rows_of(job), metrics_of(job)
        with watch.running(), timed_parts(parts) if job.contender == OURS else nullcontext():  # what is loaded counts
            result = mlflow.models.evaluate(
                model=model, data=data, targets="targets", extra_metrics=metrics, evaluators=EVALUATORS[job.contender]
            )
        check(result, job)
    return Result(watch.figures(), parts.figures(watch) if job.contender == OURS else {})


@contextmanager
def opened(job: Job) -> Iterator[Any]:
    """The loaded model, which has answered two short prompts."""
    import mlflow
    import mlflow.metrics  # loads all of MLflow's evaluators: before the clock for both sides

    model = mlflow.pyfunc.load_model(job.artifact, model_config={"max_new_tokens": job.max_tokens})
    try:
        model.predict(["a loop", "a class"])
        yield model
    finally:
        model.get_raw_model().close()


def track_in(folder: Path) -> None:
    """A tracking store that is ready: making its database takes seconds."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("evaluation", (folder / "artifacts").as_uri()))


def rows_of(job: Job) -> Any:
    """Random words, so that no two prompts begin alike."""
    import pandas as pd

    words = Wording.read(Path(job.artifact).parent / CHECKPOINT / WORDING).words
    draw = random.Random(0)

    def texts(length: int) -> list[str]:
        return [" ".join(draw.choices(words, k=length)) for _ in range(job.rows)]

    return pd.DataFrame({"inputs": texts(QUESTION_WORDS), "targets": texts(TARGET_WORDS)})


def metrics_of(job: Job) -> Sequence[Any]:
    """Each side's own, of the same names; those of question-answering that need no data of other projects."""
    from mlflow import metrics as stock

    from mlflow_llm_plugins import metrics as ours

    side = ours if job.contender == OURS else stock
    latency = [side.latency()] if job.load == WITH_LATENCY else []
    return [side.ari_grade_level(), side.exact_match(), *latency]


@contextmanager
def timed_parts(parts: Parts) -> Iterator[None]:
    """Time what our evaluator does, in the order in which it does it."""
    from mlflow_llm_plugins.evaluation import evaluation
    from mlflow_llm_plugins.evaluation.results import run

    find = evaluation.source_of

    def timed_source(*arguments: Any, **keywords: Any) -> Any:
        return TimedSource(find(*arguments, **keywords), parts)

    functions = {
        "metrics": ((evaluation, "compute_all"), (evaluation, "prepare")),
        "table": ((run, "results_table"), (run, "log_results_table")),
        "plots": ((run, "log_plots"),),
        "record": ((evaluation, "log_record"),),
    }
    original, evaluation.source_of = evaluation.source_of, timed_source
    try:
        with parts.of_functions(functions):
            yield
    finally:
        evaluation.source_of = original


class TimedSource:
    """A source of predictions, timed."""

    def __init__(self, source: Any, parts: Parts) -> None:
        self._source = source
        self.predict_unloaded = parts.timed("predict a sample, one at a time", source.predict_unloaded)
        self.predict_all = parts.timed("predict all rows", source.predict_all)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def check(result: Any, job: Job) -> None:
    """Raise unless all that was asked for is there."""
    wanted = ["ari_grade_level/v1/mean", "exact_match/v1"]
    table = result.tables["eval_results_table"]
    missing = [name for name in wanted if name not in result.metrics]
    if job.load == WITH_LATENCY and not any(name.startswith("latency/") for name in result.metrics):
        missing.append("latency")
    if missing:
        raise RuntimeError(f"no {', '.join(missing)} among {', '.join(result.metrics)}")
    if len(table) != job.rows or table["outputs"].isna().any():
        raise RuntimeError(f"{table['outputs'].notna().sum()} answers to {job.rows} rows")

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.metrics.base import MetricValue
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from mlflow_llm_plugins.evaluation.comparison.log import log_plots as log_comparison_plots
from mlflow_llm_plugins.evaluation.comparison.log import log_tables
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.artifact_file import log_results_table, make_room, table_file
from mlflow_llm_plugins.evaluation.results.plots import log_plots
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure
from mlflow_llm_plugins.evaluation.results.record import log_record
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings

SHORT, OWN = "eval_results_table.json", "llm_eval_results_table.json"


@pytest.fixture
def run_id(tracking: str) -> Iterator[str]:
    with mlflow.start_run() as run:
        yield run.info.run_id


def _frame(rows: int = 3) -> pd.DataFrame:
    numbers = [random.random() for _ in range(rows)]
    return pd.DataFrame({"inputs": [f"question {number}" for number in numbers], "m/v1/score": numbers}, dtype=object)


def _lengths(predictions: pd.Series) -> MetricValue:
    return MetricValue(scores=[len(text) for text in predictions])


def _default_evaluator(prefix: str = "", rows: int = 2) -> list[str]:
    """Have MLflow's own evaluator log its table into the active run."""
    length = mlflow.models.make_metric(eval_fn=_lengths, greater_is_better=False, name="length")
    data = pd.DataFrame({"q": [f"stock {random.random()}" for _ in range(rows)]}).assign(answer="a", truth="a")
    config = {"metric_prefix": prefix} if prefix else None
    arguments = {"evaluators": "default", "extra_metrics": [length], "evaluator_config": config}
    mlflow.models.evaluate(data=data, predictions="answer", targets="truth", **arguments)
    return list(data["q"])


def _read(run_id: str, file: str) -> pd.DataFrame:
    return mlflow.load_table(file, run_ids=[run_id])


def _assert_holds(run_id: str, file: str, frame: pd.DataFrame) -> None:
    table = _read(run_id, file)
    assert list(table.columns) == list(frame.columns)
    assert table["inputs"].tolist() == frame["inputs"].tolist()
    assert table["m/v1/score"].tolist() == pytest.approx(frame["m/v1/score"].tolist())


def _shown(run_id: str) -> list[str]:
    return [entry["path"] for entry in json.loads(mlflow.get_run(run_id).data.tags["mlflow.loggedArtifacts"])]


def test_the_only_table_has_the_short_name_and_its_content_is_loaded(run_id: str):
    frame = _frame()
    file, artifact = log_results_table(frame, run_id, others=False)
    assert file == SHORT
    _assert_holds(run_id, SHORT, frame)
    assert artifact.uri == mlflow.get_artifact_uri(SHORT)
    assert artifact.content == artifact._load()  # as it is in the store
    result = mlflow.models.EvaluationResult({}, {"eval_results_table": artifact}, run_id)
    assert result.tables["eval_results_table"]["inputs"].tolist() == frame["inputs"].tolist()


def test_a_second_and_third_evaluation_in_a_run_get_files_of_their_own(run_id: str):
    frames = [_frame(rows) for rows in (1, 2, 3)]
    files = [log_results_table(frame, run_id, others=False).file for frame in frames]
    assert files == [SHORT, OWN, "llm_eval_results_table_2.json"]
    for file, frame in zip(files, frames, strict=True):
        _assert_holds(run_id, file, frame)


def test_with_another_evaluator_after_us_in_one_call_each_has_its_file(run_id: str):
    frame = _frame()
    assert log_results_table(frame, run_id, others=True).file == OWN
    assert make_room(run_id) is None
    stock = _default_evaluator()
    _assert_holds(run_id, OWN, frame)
    assert _read(run_id, SHORT)["q"].tolist() == stock


def test_with_another_evaluator_before_us_each_has_its_file(run_id: str):
    stock, frame = _default_evaluator(), _frame()
    assert log_results_table(frame, run_id, others=False).file == OWN
    assert make_room(run_id) is None
    _assert_holds(run_id, OWN, frame)
    assert _read(run_id, SHORT)["q"].tolist() == stock


def test_a_default_evaluation_later_in_the_run_gets_the_short_name_and_its_rows_alone(run_id: str):
    first, second = _frame(2), _frame(4)
    log_results_table(first, run_id, others=False)
    log_results_table(second, run_id, others=False)

    assert make_room(run_id) == "llm_eval_results_table_2.json"
    stock = _default_evaluator()

    assert _read(run_id, SHORT)["q"].tolist() == stock
    assert list(_read(run_id, SHORT).columns) == ["q", "truth", "answer", "length/score"]
    _assert_holds(run_id, "llm_eval_results_table_2.json", first)
    _assert_holds(run_id, OWN, second)
    assert _shown(run_id) == ["llm_eval_results_table_2.json", OWN, SHORT]


def test_room_is_made_once_and_the_next_table_of_ours_leaves_the_short_name(run_id: str):
    log_results_table(_frame(), run_id, others=False)
    assert make_room(run_id) == OWN
    _default_evaluator()
    assert make_room(run_id) is None
    assert log_results_table(_frame(), run_id, others=False).file == "llm_eval_results_table_2.json"
    assert len(_read(run_id, SHORT)) == 2


@pytest.mark.parametrize("prefix", ["held_out_", "held_out/"])
def test_a_prefix_comes_before_the_name_and_has_its_own_short_name(run_id: str, prefix: str):
    frame = _frame()
    assert log_results_table(_frame(), run_id, others=False).file == SHORT
    assert log_results_table(frame, run_id, others=False, prefix=prefix).file == prefix + SHORT
    assert table_file(run_id, others_take_part=False, prefix=prefix) == prefix + OWN
    assert make_room(run_id, prefix) == prefix + OWN
    stock = _default_evaluator(prefix)
    _assert_holds(run_id, prefix + OWN, frame)
    assert _read(run_id, prefix + SHORT)["q"].tolist() == stock
    assert make_room(run_id) == OWN  # the one without the prefix was left alone


@pytest.mark.parametrize("silent", [True, False])
def test_a_store_that_cannot_delete_still_keeps_the_rows_apart(
    run_id: str, silent: bool, monkeypatch: pytest.MonkeyPatch
):
    def cannot(self: LocalArtifactRepository, artifact_path: str | None = None) -> None:
        if not silent:
            raise NotImplementedError

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", cannot)
    frame = _frame()
    log_results_table(frame, run_id, others=False)
    assert make_room(run_id) == OWN
    stock = _default_evaluator()
    _assert_holds(run_id, OWN, frame)
    assert _read(run_id, SHORT)["q"].tolist() == stock
    assert list(_read(run_id, SHORT).columns) == ["q", "truth", "answer", "length/score"]


def test_a_store_out_of_reach_costs_one_warning_and_not_the_other_evaluation(
    run_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def cannot(*_: object, **__: object) -> None:
        raise PermissionError("read only")

    log_results_table(_frame(), run_id, others=False)
    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", cannot)
        assert make_room(run_id) is None
    assert f"{SHORT} of run {run_id} may now hold the rows of two evaluations" in caplog.text
    assert "read only" in caplog.text


def test_a_table_that_was_deleted_meanwhile_is_forgotten(run_id: str, tmp_path: Path):
    log_results_table(_frame(), run_id, others=False)
    next(tmp_path.rglob(SHORT)).unlink()
    assert make_room(run_id) is None
    assert json.loads(mlflow.get_run(run_id).data.tags["llm.eval_results_table"]) == []


def test_a_table_of_a_run_that_is_not_active_goes_to_that_run(tracking: str):
    other = mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("tests").experiment_id).info.run_id
    frame = _frame()
    _, artifact = log_results_table(frame, other, others=False)
    assert mlflow.active_run() is None
    assert other in artifact.uri
    _assert_holds(other, SHORT, frame)


@pytest.mark.parametrize("value", [1e-11, 0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 2**63 - 1])
def test_numbers_are_kept_as_they_are(run_id: str, value: float):
    file, artifact = log_results_table(pd.DataFrame({"m/v1/score": [value]}, dtype=object), run_id, others=False)
    assert artifact.content["data"] == [[value]]
    assert artifact._load() == {"columns": ["m/v1/score"], "data": [[value]]}
    assert _shown(run_id) == [file]


def test_a_table_in_a_folder_is_said_to_be_read_from_there(run_id: str, caplog: pytest.LogCaptureFixture):
    file, artifact = log_results_table(_frame(), run_id, others=False, prefix="held_out/")
    result = mlflow.models.EvaluationResult({}, {"eval_results_table": artifact}, run_id)
    assert result.tables == {}  # MLflow looks for it outside of the folder
    assert f"mlflow.load_table({file!r}, run_ids=[{run_id!r}])" in caplog.text


def _table_file(run_id: str) -> str:
    return log_results_table(_frame(), run_id, others=False).file


def _record_file(run_id: str) -> str:
    return log_record([], {}, EvaluatorSettings(), run_id)["llm_evaluation"].uri


def _plot_file(run_id: str) -> str:
    return log_plots([Prediction("a", latency=random.random())], {}, run_id)["llm_latency"].uri


def _comparison_table_file(run_id: str) -> str:
    return log_tables({"comparison": _frame()}, run_id)["comparison"]


def _comparison_plot_file(run_id: str) -> str:
    return log_comparison_plots({"pareto": lambda: new_figure(1, 1)}, run_id)["pareto"]


@pytest.mark.parametrize("log", [_table_file, _record_file, _plot_file, _comparison_table_file, _comparison_plot_file])
def test_threads_that_log_into_one_run_get_files_of_their_own(
    run_id: str, log: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    """Each looks at what is there before another could log; one that waits for its turn lets the first go on."""
    both_looked = threading.Barrier(2)
    list_artifacts = mlflow.MlflowClient.list_artifacts

    def listed_by_both(*args: object) -> object:
        found = list_artifacts(*args)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait(timeout=0.3)
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "list_artifacts", listed_by_both)
    with ThreadPoolExecutor(2) as threads:
        files = list(threads.map(log, [run_id] * 2))
    assert len(set(files)) == 2


def test_room_is_made_while_no_other_thread_chooses_a_file(run_id: str, monkeypatch: pytest.MonkeyPatch):
    first, second = _frame(2), _frame(3)
    log_results_table(first, run_id, others=False)
    download, logged = mlflow.MlflowClient.download_artifacts, []

    with ThreadPoolExecutor(1) as thread, monkeypatch.context() as patch:

        def while_another_logs(*args: object) -> str:
            logged.append(thread.submit(log_results_table, second, run_id, others=True))
            wait(logged, timeout=0.3)
            return download(*args)

        patch.setattr(mlflow.MlflowClient, "download_artifacts", while_another_logs)
        moved = make_room(run_id)
        other = logged[0].result(timeout=20).file
    assert (moved, other) == (OWN, "llm_eval_results_table_2.json")
    _assert_holds(run_id, moved, first)
    _assert_holds(run_id, other, second)

"""`python -m benchmarks` runs what it is asked to, goes on after a failure, and logs and reports what there is."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import benchmarks
from benchmarks.__main__ import BENCHMARKS, Benchmark, run, run_all
from benchmarks.engine import child_environment
from benchmarks.tracking import EXPERIMENT, PARENT, log_run

ROOT = Path(__file__).parents[2]


def options(out: Path, only: list[str], **more: object) -> argparse.Namespace:
    return argparse.Namespace(**{"quick": True, "runs": None, "models": None, "out": out, "only": only, **more})


@pytest.mark.slow
def test_quick_run_of_one_gives_its_files_the_document_and_a_run_under_that_of_all(tracking, tmp_path):
    out = tmp_path / "results"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "relay,log_model", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270)
    assert done.returncode == 0, done.stderr
    assert "relay: done" in done.stdout
    assert "## The relay of a deployment" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    found = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    [parent] = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    children = [each for each in found if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    relay = next(each for each in children if each.info.run_name == "relay")
    assert any(name.endswith("/cost") for name in relay.data.metrics)
    assert "benchmarks.relay" in relay.data.params["command"]
    artifacts = mlflow.MlflowClient().list_artifacts(relay.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["relay.csv"]


def test_failing_benchmark_is_named_with_its_exit_status_and_the_next_one_runs(tracking, tmp_path, monkeypatch):
    for name in ("relay", "loading"):
        monkeypatch.setitem(BENCHMARKS, name, Benchmark(quick=("--no-such-option",)))
    happened = run_all(options(tmp_path, ["relay", "loading"]))
    assert happened == {"relay": "exit status 2", "loading": "exit status 2"}
    found = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
    failed = {each.info.run_name: each.info.status for each in found if "failure" in each.data.tags}
    assert failed == {"relay": "FAILED", "loading": "FAILED"}


def test_benchmark_that_cannot_run_here_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "log_model", Benchmark(missing=lambda: "no torchvision"))
    assert run("log_model", options(tmp_path, []), child_environment()) == "skipped: no torchvision"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_takes_the_options_that_it_is_given(name, tmp_path):
    chosen = options(tmp_path, [name], runs=2, models=["tiny"])
    command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name].arguments(chosen), "--help"]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for option in (argument for argument in command if argument.startswith("--")):
        assert option in done.stdout


def test_run_of_one_benchmark_is_under_the_run_of_all_and_keeps_its_metrics(tracking, monkeypatch):
    with mlflow.start_run() as parent:
        pass
    monkeypatch.setenv(PARENT, parent.info.run_id)
    run_id = log_run("serve 40m", {"model": "40m"}, {"ours/tokens/s [x]": 2.0}, [])
    found = mlflow.get_run(run_id)
    assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert found.data.metrics == {"ours/tokens/s x": 2.0}


def test_every_benchmark_is_a_module():
    for name in BENCHMARKS:
        assert (Path(benchmarks.__file__).parent / f"{name}.py").is_file()

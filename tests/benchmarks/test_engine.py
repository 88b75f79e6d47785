"""The benchmark of the engine runs, on loads that say nothing about speed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.engine import Entry, Row, middle, run_child, speed, summarize
from benchmarks.loads import Load
from benchmarks.measure import Job

ROOT = Path(__file__).parents[2]
QUICK = ["-m", "benchmarks.engine", "--quick", "--models", "tiny", "--runs", "1"]


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """Contender -> its row."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["contender"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_quick_run_gives_figures_and_a_plot_of_each_measurement(tmp_path):
    chosen = ["--what", "decode", "throughput", "--contenders", "ours", "stock", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *QUICK, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for what in ("decode", "throughput"):
        rows = rows_of(tmp_path / f"engine_{what}_tiny_cpu.csv")
        assert rows.keys() == {"ours", "stock"}
        assert all(float(row["wall"]) > 0 and float(row["cpu"]) > 0 for row in rows.values()), rows
        assert (tmp_path / f"engine_{what}_tiny_cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_contender_that_fails_says_why_and_one_without_an_end_is_killed():
    load = Load("2 x 16", ((16, 4),) * 2)
    refused = Job.of("prefill", "tiny", "cpu", "ours", {"no_such_setting": 1}, load)
    assert "no_such_setting" in run_child(refused, deadline_s=120)["failure"]
    assert run_child(refused, deadline_s=0.1) == {"failure": "not finished after 0 s"}


def test_options_of_a_contender_are_json_where_they_can_be():
    assert Entry.parse("ours:packed_weights=false,max_batch_tokens=64,engine=x") == Entry(
        "ours:packed_weights=false,max_batch_tokens=64,engine=x",
        "ours",
        {"packed_weights": False, "max_batch_tokens": 64, "engine": "x"},
    )


def test_speed_is_above_one_for_whoever_is_faster_than_stock():
    assert speed("decode step [ms]", 10.0, 25.0) == 2.5
    assert speed("tokens/s", 250.0, 100.0) == 2.5
    assert speed("decode step [ms]", 10.0, None) is None


def test_figure_is_the_median_of_the_runs_on_its_clock():
    assert middle("x", [{"x": [1.0, 9.0]}, {"x": [5.0, 7.0]}, {"x": [2.0, 8.0]}], 0) == 2.0
    assert middle("x", [{"x": [1.0, 9.0]}, {"x": [5.0, 7.0]}, {"x": [2.0, 8.0]}], 1) == 8.0


def test_failed_contender_is_a_row_with_its_reason_beside_the_others():
    results = {
        ("1 x 8", "ours"): [{"figures": {"tokens/s": [30.0, 20.0]}}, {"failure": "it broke"}],
        ("1 x 8", "stock"): [{"figures": {"tokens/s": [10.0, 5.0]}}],
    }
    ours, stock = summarize("throughput", "tiny", "cpu", results)
    assert isinstance(ours, Row)
    assert (ours.failure, ours.wall) == ("it broke", None)
    assert (stock.failure, stock.wall, stock.speed_wall) == ("", 10.0, 1.0)

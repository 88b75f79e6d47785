"""The benchmark of the relay runs, on loads that say nothing about speed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.relay import MEASUREMENTS, row

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quick_run_gives_both_figures_of_each_measurement(tmp_path):
    command = [sys.executable, "-m", "benchmarks.relay", "--quick", "--runs", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "relay.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [found["what"] for found in rows] == [measurement.what for measurement in MEASUREMENTS]
    assert all(float(found["direct"]) > 0 and float(found["relayed"]) > 0 for found in rows), rows


def test_cost_is_time_added_or_throughput_lost_and_held_against_its_bar():
    latency, throughput = MEASUREMENTS
    within, beyond = row(latency, 1.0, 1.2, runs=1), row(latency, 1.0, 1.4, runs=1)
    assert (within.cost, within.holds, beyond.cost, beyond.holds) == (0.2, True, 0.4, False)
    within, beyond = row(throughput, 100.0, 98.0, runs=1), row(throughput, 100.0, 96.0, runs=1)
    assert (within.cost, within.holds, beyond.cost, beyond.holds) == (0.02, True, 0.04, False)

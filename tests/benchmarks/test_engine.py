"""The benchmark of the engine runs, on loads that say nothing about speed."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contenders import Reads, Tick
from benchmarks.contenders.reads import reads_of
from benchmarks.engine import Entry, Row, entries_of, middle, roofline, run_child, speed, summarize, table_of
from benchmarks.loads import Load
from benchmarks.measure import DECODE_STEP, Job
from benchmarks.models import SHAPES, random_model

ROOT = Path(__file__).parents[2]
QUICK = ["-m", "benchmarks.engine", "--quick", "--models", "tiny", "--runs", "1"]


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """Contender -> its row."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["contender"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_quick_run_gives_figures_and_a_plot_of_each_measurement(tmp_path):
    chosen = ["--what", "decode", "throughput", "--contenders", "ours", "openvino", "stock", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *QUICK, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for what in ("decode", "throughput"):
        rows = rows_of(tmp_path / f"engine_{what}_tiny_cpu.csv")
        assert rows.keys() == {"ours", "openvino", "stock"}
        assert all(float(row["wall"]) > 0 and float(row["cpu"]) > 0 for row in rows.values()), rows
        assert all(bool(row["roofline"]) == (what == "decode") for row in rows.values()), rows
        assert (tmp_path / f"engine_{what}_tiny_cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_contender_that_fails_says_why_and_one_without_an_end_is_killed(tmp_path):
    load = Load("2 x 16", ((16, 4),) * 2)
    refused = Job.of("prefill", "tiny", "cpu", "ours", {"no_such_setting": 1}, load, tmp_path)
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


def test_step_reads_the_weights_once_and_keys_and_values_of_every_row_half_way():
    load = Load("2 rows", ((100, 20), (50, 40)), rows=2)
    assert Reads(weights=1000, per_token=2).of_step(load) == 1000 + 2 * (110 + 70)


@pytest.mark.parametrize("tied", [True, False])
def test_input_embedding_of_its_own_is_not_read_and_a_tied_one_once_as_the_head(tied):
    shape = replace(SHAPES["tiny"], tied=tied)
    model = random_model(shape, "cpu")
    embedding = shape.vocabulary * shape.hidden * 4  # float32
    reads = reads_of(model)
    others = sum(p.nbytes for name, p in model.named_parameters() if "embed" not in name and "lm_head" not in name)
    assert reads.weights == others + embedding
    assert reads.per_token == 2 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads) * 4


@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.3), ("nf4", 0.2)])
def test_quantized_shape_reads_less_of_its_linear_layers_and_computes(quantization, most):
    import torch

    plain = random_model(SHAPES["tiny"], "cpu")
    packed = random_model(replace(SHAPES["tiny"], quantization=quantization), "cpu")
    embedding = SHAPES["tiny"].vocabulary * SHAPES["tiny"].hidden * 4
    assert reads_of(packed).weights - embedding < most * (reads_of(plain).weights - embedding)
    ids = torch.randint(0, SHAPES["tiny"].vocabulary, (2, 7))
    with torch.no_grad():
        assert (packed(ids).logits - plain(ids).logits).abs().max() < 4


def test_roofline_is_the_share_of_the_bandwidth_at_which_a_step_reads():
    found = roofline(DECODE_STEP, wall=10.0, step_bytes=50e6, bandwidth=20e9)
    assert found == {"step_mb": 50.0, "bandwidth_gb_s": 20.0, "roofline": 0.25}


@pytest.mark.parametrize(
    ("figure", "step_bytes", "bandwidth"), [("tokens/s", 1e6, 1e9), (DECODE_STEP, None, 1e9), (DECODE_STEP, 1e6, None)]
)
def test_roofline_is_empty_where_it_is_not_known(figure, step_bytes, bandwidth):
    assert set(roofline(figure, 1.0, step_bytes, bandwidth).values()) == {None}


def test_rows_of_a_decode_step_have_their_roofline_beside_those_that_have_none():
    results = {
        ("1 x 8", "ours"): [{"figures": {DECODE_STEP: [2.0, 2.0]}, "step_bytes": 10e6}],
        ("1 x 8", "vllm"): [{"figures": {DECODE_STEP: [4.0, 2.0]}, "step_bytes": None}],
    }
    ours, vllm = summarize("decode", "tiny", "cpu", results, bandwidth=10e9)
    assert (ours.roofline, vllm.roofline) == (0.5, None)
    assert "10.0 GB/s" in str(table_of([ours, vllm]).caption)


def test_cpu_time_of_a_child_counts_where_its_pid_is_given():
    work = "import sys, time; sum(range(10**7)); print(time.process_time(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        took = float(child.stdout.readline())
        alone, together = Tick.now(), Tick.now([child.pid])
        child.communicate(timeout=60)
    assert together.cpu - alone.cpu > 0.9 * took


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_contenders_that_need_a_cpu_are_left_out_elsewhere(device):
    pytest.importorskip("openvino_genai")
    names = {entry.contender for entry in entries_of("decode", None, device)}
    assert ("openvino" in names) == (device == "cpu")
    assert {"ours", "stock", "generate"} <= names

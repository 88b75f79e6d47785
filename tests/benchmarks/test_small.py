"""The benchmarks of loading, prefixes, quality and memory run, and say what they did not measure."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loading import ARTIFACTS as LOADED
from benchmarks.loads import Load
from benchmarks.out_of_memory import Row, lives, outcomes
from benchmarks.prefix import CONTENDERS, baseline_of, results_of
from benchmarks.quality import RECIPES
from benchmarks.served.loads import SHARED, ServedLoad
from benchmarks.servers import Task, Turn
from benchmarks.servers.artifacts import ARTIFACTS

ROOT = Path(__file__).parents[2]
STREAMS = ServedLoad(SHARED, "streams", 4, clients=2)


def figures_of(path: Path) -> dict[tuple[str, str], list[dict[str, str]]]:
    """(load, contender) -> rows."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert row["failure"] == "", row
            found.setdefault((row["load"], row["contender"]), []).append(row)
    return found


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # a process for each, one after the other
def test_loading_is_timed_for_every_engine_served_and_loaded(tmp_path):
    run("benchmarks.loading", "--quick", "--out", str(tmp_path))
    found = figures_of(tmp_path / "loading_tiny.csv")
    assert found.keys() == {(load, name) for load in ("served", "loaded") for name in LOADED}
    assert all(float(row["value"]) > 0 for rows in found.values() for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(600)  # two servers start, one after the other
def test_shared_prefix_is_measured_with_and_without_its_cache(tmp_path):
    run("benchmarks.prefix", "--quick", "--contenders", "ours-openvino-int8", "--out", str(tmp_path))
    found = figures_of(tmp_path / "prefix_tiny.csv")
    assert {name for _, name in found} == {"ours-openvino-int8", "ours-openvino-int8-uncached"}
    for (_, name), rows in found.items():
        own = {row["figure"]: row for row in rows}
        assert float(own["tokens/s"]["value"]) > 0
        assert bool(name.endswith("-uncached")) == (float(own["tokens/s"]["times_baseline"]) == 1.0)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a process for each recipe, one after the other
def test_quality_of_every_recipe_is_beside_its_speed(tmp_path):
    run("benchmarks.quality", "--quick", "--out", str(tmp_path))
    found = figures_of(tmp_path / "quality_tiny_llm.csv")
    values = {name: {row["figure"]: float(row["value"]) for row in rows} for (_, name), rows in found.items()}
    assert values.keys() == RECIPES.keys()
    assert values["float32"]["KL divergence [nats]"] < 1e-6
    exact, coarse = values["openvino-none, f32"], values["openvino-int4 g128"]
    assert exact["KL divergence [nats]"] < 1e-4 < coarse["KL divergence [nats]"]
    assert exact["top-1 agreement"] > 0.99
    assert all(value["tokens/s, 16 at a time"] > 0 for value in values.values())


@pytest.mark.slow
def test_benchmark_of_memory_runs_on_a_cpu_where_nothing_is_taken_away(tmp_path):
    run("benchmarks.out_of_memory", "--device", "cpu", "--models", "tiny", "--out", str(tmp_path))
    with (tmp_path / "out_of_memory_tiny_cpu.csv").open(encoding="utf-8", newline="") as file:
        found = {row["load"]: row["outcome"] for row in csv.DictReader(file)}
    assert found["before"] == found["after"] == "answered"


class Refusing:
    """An engine that refuses long prompts, and fails those of medium length."""

    def submit(self, request):
        if len(request.prompt_ids) > 20:
            raise ValueError("too long")
        return self if len(request.prompt_ids) > 10 else Answered()

    def result(self):
        raise RuntimeError("no memory")


class Answered:
    def result(self):
        return "text"


def test_every_way_in_which_requests_end_is_counted():
    load = Load("mixed", ((5, 1), (15, 1), (25, 1), (7, 1)))
    assert list(outcomes("now", Refusing(), load, 100)) == [
        ("now", "answered", 2),
        ("now", "RuntimeError: no memory", 1),
        ("now", "ValueError: too long", 1),
    ]


@pytest.mark.parametrize(("outcome", "is_alive"), [("answered", True), ("EngineUnavailableError: dead", False)])
def test_engine_lives_if_it_answers_the_last_request(outcome, is_alive):
    rows = [Row("1b", load, what, 1, "cuda", "", "", "", "") for load, what in (("16", "failed"), ("after", outcome))]
    assert lives(rows) is is_alive


def test_failed_turn_of_a_prefix_is_a_result_with_its_reason():
    turns = [("ours", Turn(Task(Path("a"), Path("b"), (STREAMS,)), failure="no memory"))]
    [result] = results_of(turns, [STREAMS])["2 clients", "ours"]
    assert (result.figures, result.failure) == ({}, "no memory")


@pytest.mark.parametrize("contender", CONTENDERS)
def test_same_artifact_is_there_without_prefix_caching(contender):
    assert baseline_of(contender) == baseline_of(baseline_of(contender)) == f"{contender}-uncached"
    assert {contender, baseline_of(contender)} <= ARTIFACTS.keys()


def test_gguf_file_has_the_weights_and_every_token(tmp_path):
    gguf = pytest.importorskip("gguf")
    from benchmarks.models import SHAPES
    from benchmarks.servers.artifacts import save_chat_checkpoint, save_gguf

    shape = SHAPES["tiny"]
    save_chat_checkpoint(shape, tmp_path / "checkpoint")
    save_gguf(shape, tmp_path)
    reader = gguf.GGUFReader(tmp_path / "gguf" / "model.gguf")
    names = {tensor.name for tensor in reader.tensors}
    assert {"token_embd.weight", "blk.1.attn_q.weight", "output_norm.weight"} <= names
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == shape.vocabulary
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert reader.fields["llama.block_count"].contents() == config["num_hidden_layers"]

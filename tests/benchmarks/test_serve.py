"""The benchmark of the servers runs, says what it did not measure, and leaves no process behind."""

from __future__ import annotations

import argparse
import csv
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import mlflow
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve import planned_turns, take_turns
from benchmarks.served.loads import NEW_TOKENS, SHARED, Chat, ServedLoad, loads_of
from benchmarks.served.options import FEWEST_TOKENS, label, length_of_prompts, listed, not_negative, one_of, positive
from benchmarks.served.plots import PLOTS, plot
from benchmarks.served.rows import About, Row, rows_of
from benchmarks.served.table import tables_of
from benchmarks.served.tracking import log_rows
from benchmarks.servers import NAMES, USUAL, ServerError, Task, Turn, contenders
from benchmarks.servers.artifacts import ARTIFACTS, chat_tokenizer, wording_of
from benchmarks.servers.health import EVERY_S, probed
from benchmarks.servers.http_server import Address
from benchmarks.servers.process import Child, cause, end, free_port, running, wait_until_ready
from benchmarks.tracking import BATCH
from mlflow_llm_plugins.loadtest import Distribution, LoadResult, Objective, RequestResult, Target

ROOT = Path(__file__).parents[2]
ABOUT = About("tiny", "ours", "ttft=1", "a machine", "python 3", "2026-01-01", "python -m benchmarks.serve")
OBJECTIVE = Objective(ttft=1)
KNOWN = contenders(Path("transformers"), Path("/nowhere/at/all/vllm"))
STREAMS = ServedLoad("short", "streams", 4, clients=2)
OPEN = ServedLoad("short", "streams", 4, rate=3.0)
WHOLE = ServedLoad("short", "whole", 4, clients=2)


def command_of(*options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.serve", "--quick", *options]


def result(load: ServedLoad, seconds: float, tokens: int | None = NEW_TOKENS, failures: int = 0) -> LoadResult:
    """Requests that took so long, one after the other, with their first token half way, and some that failed."""
    answered = [
        RequestResult(
            sent_s=number * seconds,
            ended_s=(number + 1) * seconds,
            first_token_s=(number + 0.5) * seconds if load.answers == "streams" else None,
            prompt_tokens=50,
            completion_tokens=tokens,
        )
        for number in range(load.requests)
    ]
    failed = [RequestResult(0.0, 0.1, failure="HTTP 429") for _ in range(failures)]
    target = Target(url="http://127.0.0.1:1", stream=load.answers == "streams")
    return LoadResult(target, load.as_load(ignore_eos=False), tuple(answered + failed), "2026-01-01", 0.1)


def turn(*loads: ServedLoad, failure: str = "") -> Turn:
    """One with these loads to do, of which nothing is done."""
    return Turn(Task(Path("artifacts"), Path("logs"), loads), peak_bytes=10**6, failure=failure)


def rows(turns: dict[str, list[Turn]], *loads: ServedLoad) -> dict[str, Row]:
    """Contender -> its row of the last load."""
    return {row.contender: row for row in rows_of(ABOUT, loads, turns, OBJECTIVE)}


def measured(load: ServedLoad, seconds: float, **how: int) -> Turn:
    own = turn(load)
    own.results[load] = result(load, seconds, **how)
    return own


@pytest.mark.slow
@pytest.mark.timeout(600)  # four contenders start, one after the other
def test_quick_run_gives_figures_plots_and_a_run(tracking, tmp_path):
    names = ["stock", "transformers-serve", "ours", "ours-openvino-int8", "genai-int8"]
    options = ["--contenders", ",".join(names), "--prompts", "100", "--transformers-serve", "/nowhere/at/all"]
    done = subprocess.run(
        command_of(*options, "--output", str(tmp_path)), cwd=ROOT, capture_output=True, text=True, timeout=570
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "serve_tiny.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    absent = [row for row in found if row["contender"] == "transformers-serve"]
    assert {row["failure"] for row in absent} == {"not installed"}
    assert "transformers-serve, no figures: not installed" in done.stdout
    figures = [row for row in found if row["contender"] != "transformers-serve"]
    assert Counter(row["contender"] for row in figures) == {
        "stock": 2,
        "ours": 4,
        "ours-openvino-int8": 4,
        "genai-int8": 2,
    }
    for row in figures:
        assert (row["failure"], row["failed"], float(row["completion_tokens"])) == ("", "0", NEW_TOKENS), row
        assert float(row["output_tokens_per_second"]) > 0 < float(row["peak_rss_mb"])
        assert bool(row["health_p99"]) == row["contender"].startswith("ours")
        assert bool(row["ttft_p50"]) == bool(row["itl_p99"]) == bool(row["goodput"]) == (row["answers"] == "streams")
    assert {row["prompt_tokens"] for row in figures} == {"100.0"}
    for wanted in PLOTS:
        assert (tmp_path / f"serve_tiny_{wanted.name}.png").read_bytes().startswith(b"\x89PNG")
    run = mlflow.get_run(done.stdout.split()[-1])
    assert run.data.metrics["ours/100/2_clients/streams/output_tokens_per_second"] > 0
    assert run.data.params["clients"] == "[2]"


@pytest.mark.slow
def test_interrupted_run_ends_its_processes(tracking, tmp_path):
    bench = subprocess.Popen(
        command_of("--contenders", "engine", "--output", str(tmp_path)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        children = wait_for_children(bench)
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=120)
    finally:
        bench.kill()
    assert bench.returncode == 130, said
    assert "interrupted" in said
    assert not [child for child in children if child.is_running()]


def wait_for_children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if children := psutil.Process(process.pid).children(recursive=True):
            return children
        time.sleep(0.1)  # nothing tells of another process' children
    raise AssertionError(f"no child was started; exit status {process.poll()}")


def test_server_that_ends_before_it_answers_is_a_failure_with_its_cause(tmp_path, capsys):
    said = "import sys; print('ValueError: no such model'); print('Exception: the command failed'); sys.exit(3)"

    def serve() -> None:
        with running([sys.executable, "-c", said], tmp_path / "server.log") as child:
            wait_until_ready(child, "http://127.0.0.1:1/ping")

    with pytest.raises(ServerError) as error:
        serve()
    assert str(error.value) == "ended with exit status 3: ValueError: no such model"
    shown = capsys.readouterr().err
    assert "server failed; its last lines:" in shown
    assert "Exception: the command failed" in shown


@pytest.mark.parametrize("error", [ServerError("it broke"), KeyboardInterrupt()])
def test_whole_family_of_a_server_ends_with_the_block(tmp_path, error):
    grandchild = "import time; print(1, flush=True); time.sleep(600)"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"]
    family: list[psutil.Process] = []

    def serve() -> None:
        with running(command, tmp_path / "server.log") as child:
            family.extend([psutil.Process(child.process.pid), *wait_for_descendant(child)])
            raise error

    with pytest.raises(type(error)):
        serve()
    assert len(family) == 2
    assert not [process for process in family if process.is_running()]


def wait_for_descendant(child: Child) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not child.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)  # nothing tells of a line in a file
    return psutil.Process(child.process.pid).children()


def test_ending_a_process_twice_is_harmless(tmp_path):
    with running([sys.executable, "-c", ""], tmp_path / "server.log") as child:
        end(child.process)
    assert child.process.returncode is not None


def test_cause_of_a_chain_of_exceptions_is_the_first():
    log = "INFO: starting\nTraceback:\ntorch.TorchError: no memory\nWarning: x\nRuntimeError: cannot start\nbye\n"
    assert cause(log) == "torch.TorchError: no memory"
    assert cause("started\n\nstopped\n") == "stopped"
    assert cause("") == "it said nothing"


def test_stock_runs_without_our_routes_and_ours_with_them():
    known = KNOWN
    assert list(known) == list(NAMES)
    assert known["stock"].environment == {"MLFLOW_LLM_EXTEND_STOCK": "0"}
    assert known["stock"].answers == ("whole",)
    assert known["ours"].environment == {"MLFLOW_LLM_EXTEND_STOCK": "1"}
    assert known["ours"].path == "/v1/chat/completions"


def test_every_contender_has_an_artifact_and_the_usual_ones_are_among_all():
    assert {each.artifact for each in KNOWN.values()} <= ARTIFACTS.keys()
    assert set(USUAL) <= set(NAMES)
    assert {"stock", "ours", "ours-openvino-int8", "genai-int8"} <= set(USUAL)


def test_contender_that_is_not_installed_says_so():
    assert KNOWN["vllm"].missing() == "not installed"
    assert KNOWN["vllm"].versions() == ""


def test_health_is_asked_again_and_again_and_a_server_that_is_not_well_counts_as_the_longest(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    (tmp_path / "well").write_text("yes")
    with running(command, tmp_path / "server.log") as child:
        wait_until_ready(child, f"http://127.0.0.1:{port}/well")
        for path, is_well in (("well", True), ("missing", False)):
            with probed(f"http://127.0.0.1:{port}/{path}") as latencies:
                wait_for_probes(latencies, 3)
            assert all(0 < latency < 10.0 for latency in latencies) == is_well, latencies
            assert all(latency == 10.0 for latency in latencies) != is_well, latencies


def wait_for_probes(latencies: list[float], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(latencies) < count and time.monotonic() < deadline:
        time.sleep(EVERY_S)  # nothing tells of a probe
    assert len(latencies) >= count


def test_health_under_a_load_is_in_the_rows_of_servers_that_were_asked():
    asked, other = measured(STREAMS, 1.0), measured(STREAMS, 2.0)
    asked.health[STREAMS] = Distribution.of([0.01, 0.03, 0.02])
    found = rows({"ours": [asked], "stock": [other]}, STREAMS)
    assert (found["ours"].health_p50, found["stock"].health_p50) == (0.02, None)
    assert 0.029 < found["ours"].health_p99 <= 0.03


def test_ratios_are_to_the_chosen_baseline():
    turns = {"ours": [measured(STREAMS, 8.0)], "genai-int8": [measured(STREAMS, 2.0)]}
    about = replace(ABOUT, baseline="genai-int8")
    found = {row.contender: row for row in rows_of(about, [STREAMS], turns, OBJECTIVE)}
    assert (found["ours"].baseline_tokens_x, found["genai-int8"].baseline_tokens_x) == (4.0, 1.0)
    [table] = tables_of(list(found.values()))
    assert "genai-int8 x" in [column.header for column in table.columns]


@pytest.mark.parametrize("rate", [2.0, None])
def test_open_loop_is_left_out_without_a_rate(rate):
    rhythms = {load.rhythm for load in loads_of(["short"], [1], rate, None)}
    assert rhythms == ({"1 client", "2 requests/s"} if rate else {"1 client"})


def test_cache_of_transformers_serve_fits_all_rows_and_little_more():
    command = KNOWN["transformers-serve"].command(Address(Path("checkpoint"), 8000, rows=16, longest=96))
    assert command[:3] == ["transformers", "serve", "checkpoint"]
    options = dict(pairwise(command))
    assert "--continuous-batching" in command
    pages, needed = int(options["--cb-num-blocks"]), 16 * 96 / int(options["--cb-block-size"])
    assert needed < pages * 0.85 < 1.5 * needed


def test_turns_alternate_and_a_contender_that_failed_is_not_asked_again(tmp_path):
    asked: list[str] = []
    chosen = {"good": Fake(asked, "good"), "bad": Fake(asked, "bad", fails=True)}
    (tmp_path / "artifacts" / "fake").mkdir(parents=True)
    turns = planned_turns(chosen, [STREAMS, WHOLE], 3, tmp_path)
    assert [name for name, _ in turns] == ["good", "bad", "bad", "good", "good", "bad"]
    assert take_turns(chosen, "tiny", turns)
    assert asked == ["good", "bad", "good", "good"]
    assert [turn.failure for name, turn in turns if name == "bad"] == ["it broke", "", ""]
    assert {turn.task.loads for _, turn in turns} == {(STREAMS,)}


def test_interruption_keeps_what_was_measured(tmp_path, capsys):
    asked: list[str] = []
    chosen = {"first": Fake(asked, "first"), "second": Fake(asked, "second", interrupts=True)}
    (tmp_path / "artifacts" / "fake").mkdir(parents=True)
    turns = planned_turns(chosen, [STREAMS], 2, tmp_path)
    assert not take_turns(chosen, "tiny", turns)
    assert [bool(turn.results) for _, turn in turns] == [True, False, False, False]
    assert "interrupted" in capsys.readouterr().err


class Fake:
    """A contender without a process."""

    artifact = "fake"
    answers = ("streams",)

    def __init__(self, asked: list[str], name: str, fails: bool = False, interrupts: bool = False) -> None:
        self.asked, self.name, self.fails, self.interrupts = asked, name, fails, interrupts

    def missing(self) -> str:
        return ""

    def versions(self) -> str:
        return ""

    def run(self, turn: Turn) -> None:
        self.asked.append(self.name)
        if self.interrupts:
            raise KeyboardInterrupt
        if self.fails:
            raise ServerError("it broke")
        turn.results[STREAMS] = result(STREAMS, 1.0)


def test_figures_are_medians_and_ratios_are_in_favour_of_whoever_is_faster():
    turns = {
        "ours": [measured(STREAMS, seconds) for seconds in (1.0, 9.0, 2.0)],
        "stock": [measured(STREAMS, 8.0)],
    }
    found = rows(turns, STREAMS)
    assert found["ours"].output_tokens_per_second == NEW_TOKENS / 2
    assert (found["ours"].output_tokens_per_second_min, found["ours"].output_tokens_per_second_max) == (3.556, 32.0)
    assert (found["ours"].ttft_p50, found["ours"].e2el_p50, found["ours"].runs) == (1.0, 2.0, 3)
    assert (found["stock"].baseline_tokens_x, found["stock"].baseline_ttft_x, found["stock"].baseline_e2el_x) == (
        4.0,
        4.0,
        4.0,
    )
    assert found["ours"].baseline_tokens_x == 1.0
    assert (found["ours"].goodput, found["stock"].goodput) == (0.5, 0.0)


def test_open_loop_has_no_ratio_of_throughput():
    found = rows({"ours": [measured(OPEN, 1.0)], "stock": [measured(OPEN, 3.0)]}, OPEN)
    assert (found["stock"].baseline_tokens_x, found["stock"].baseline_e2el_x) == (None, 3.0)


def test_whole_answers_tell_no_first_token():
    found = rows({"ours": [measured(WHOLE, 1.0)], "stock": [measured(WHOLE, 3.0)]}, WHOLE)
    assert (found["stock"].ttft_p50, found["stock"].baseline_ttft_x, found["stock"].baseline_tokens_x) == (
        None,
        None,
        3.0,
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tokens": 30}, "answers of 30 tokens instead of 32"),
        ({"tokens": None}, "answers without usage"),
        ({"failures": 2}, "2 x HTTP 429"),
    ],
)
def test_row_says_what_is_wrong_with_its_figures(how, said):
    row = rows({"ours": [measured(STREAMS, 1.0, **how)]}, STREAMS)["ours"]
    assert row.failure == said
    assert row.failed == how.get("failures", 0)


def test_contender_that_never_answered_has_rows_for_its_own_loads_only():
    found = list(rows_of(ABOUT, [STREAMS, WHOLE], {"stock": [turn(WHOLE, failure="no memory")]}, OBJECTIVE))
    assert [(row.answers, row.failure, row.runs) for row in found] == [("whole", "no memory", 0)]


def test_rows_without_figures_can_be_shown(tmp_path):
    found = list(rows_of(ABOUT, [STREAMS], {"stock": [turn(STREAMS, failure="no memory")]}, OBJECTIVE))
    [table] = tables_of(found)
    assert "stock, no figures: no memory" in str(table.caption)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plot(found, tmp_path, "serve"))


def test_run_has_every_figure_of_many_rows(tracking, tmp_path):
    file = tmp_path / "serve.csv"
    file.write_text("x")
    loads = [ServedLoad("short", "streams", 1, clients=clients) for clients in range(1, 101)]
    turns = {"ours": [turn(*loads)]}
    turns["ours"][0].results.update({load: result(load, 1.0) for load in loads})
    run = mlflow.get_run(log_rows(list(rows_of(ABOUT, loads, turns, OBJECTIVE)), {"runs": 1}, [file]))
    assert len(run.data.metrics) > BATCH
    assert run.data.metrics["ours/short/100_clients/streams/ttft_p50"] == 0.5
    assert (run.data.params["hardware"], run.data.params["runs"]) == ("a machine", "1")
    assert [found.path for found in mlflow.MlflowClient().list_artifacts(run.info.run_id)] == ["serve.csv"]


def test_every_length_is_asked_in_every_rhythm_as_streams_and_whole():
    loads = list(loads_of(["short", "500"], [1, 8], 2.0, None))
    assert len(set(loads)) == len(loads) == 2 * 2 * 3
    assert {(load.rhythm, load.requests) for load in loads} == {
        ("1 client", 16),
        ("8 clients", 32),
        ("2 requests/s", 32),
    }
    assert {load.requests for load in loads_of(["short"], [1, 8], 2.0, 5)} == {5}
    assert {load.answers for load in loads_of(["short"], [1, 8], 2.0, None, ["whole"])} == {"whole"}


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer(1024)


@given(tokens=st.integers(FEWEST_TOKENS, 2000), requests=st.integers(1, 3))
def test_prompts_have_as_many_tokens_as_they_are_named_after(tokenizer, tokens, requests):
    wording = wording_of(tokenizer)
    for chat in wording.prompts(ServedLoad(str(tokens), "streams", requests, clients=1)):
        assert len(ids_of(tokenizer, chat)) == tokens


def ids_of(tokenizer, chat: Chat) -> list[int]:
    return tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))["input_ids"]


def test_shared_prompts_begin_with_the_same_200_tokens_in_every_load_and_go_on_with_their_own(tokenizer):
    wording = wording_of(tokenizer)
    loads = [ServedLoad(SHARED, "streams", 3, clients=clients) for clients in (1, 2)]
    chats = [chat for load in loads for chat in wording.prompts(load)] + wording.warm_up(SHARED, 1)
    systems, users = zip(*chats, strict=True)
    assert {message["role"] for message in systems} == {"system"}
    assert len({message["content"] for message in systems}) == 1
    assert len({message["content"] for message in users}) == len(chats) == 7
    ids = [ids_of(tokenizer, chat) for chat in chats]
    assert {len(row) for row in ids} == {wording.prompt_tokens(SHARED)}
    common = next(place for place, tokens in enumerate(zip(*ids, strict=True)) if len(set(tokens)) > 1)
    assert 200 <= common < 220


def test_loads_share_no_prompt_and_each_has_the_same_ones_again(tokenizer):
    wording = wording_of(tokenizer)
    loads = list(loads_of(["short", "100"], [1, 2], 2.0, 3))
    chats = [chat for load in loads for chat in [*wording.prompts(load), *wording.warm_up(load.prompts, 1)]]
    texts = [message["content"] for chat in chats for message in chat]
    assert len(set(texts)) == len(loads) * 3 + 2
    assert [wording.prompts(load) for load in loads] == [wording.prompts(load) for load in loads]


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (length_of_prompts, "49", "must be 'short', 'shared' or at least 50 tokens, got '49'"),
        (length_of_prompts, "long", "must be 'short', 'shared' or at least 50 tokens, got 'long'"),
        (positive(float), "0", "must be above 0, got '0'"),
        (not_negative, "-1", "must be at least 0, got '-1'"),
        (label, "../x", "must be of letters, digits and hyphens, got '../x'"),
        (listed(positive(int)), "4,-1", "must be above 0, got '-1'"),
        (listed(one_of(["ours", "stock"])), "ours,mine", "must be of ours, stock, got 'mine'"),
    ],
)
def test_option_that_is_not_allowed_is_refused_with_what_is(read, text, said):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        read(text)
    assert str(error.value) == said

"""The benchmark of the evaluation runs, judges what it says it judges, and holds the right figure against a bar."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from benchmarks.evaluated import cases as judged
from benchmarks.evaluated.cases import JSON_REMINDER, NUMBERS, VERDICT, WORDS, Cases, judging_tokenizer, questions_of
from benchmarks.evaluated.job import CPU, WALL, Job, Result
from benchmarks.evaluated.judges import FORWARD_SHARE, VALID, common_length, is_verdict
from benchmarks.evaluated.options import parse_arguments
from benchmarks.evaluated.plots import plot
from benchmarks.evaluated.rows import SHARE, SPEED, About, of_cpu, part_rows, rows_of
from benchmarks.evaluated.stopwatch import Parts, Stopwatch
from benchmarks.evaluated.table import table_of
from benchmarks.evaluated.tracking import log_rows, name_of
from benchmarks.evaluated.turns import Turns, perform
from mlflow_llm_plugins.metrics.judge.backends.local.reader import Reader

ROOT = Path(__file__).parents[2]
ABOUT = About("evaluator", "40m", 200, 32, "a machine", "python 3", "2026-01-01", "python -m benchmarks.evaluation")
JUDGES_ABOUT = About("judge", "40m", 200, 32, "a machine", "python 3", "2026-01-01", "python -m benchmarks.evaluation")
LOAD = "with latency()"


def took(*seconds: float, **more: float) -> list[Result]:
    """Turns that took so long, on both clocks."""
    return [Result({WALL: wall, CPU: 2 * wall, **more}) for wall in seconds]


def found_in(rows, contender, figure):
    [row] = [row for row in rows if (row.contender, row.figure) == (contender, figure)]
    return row


@pytest.mark.slow
@pytest.mark.timeout(900)  # a process for each, one after the other
def test_quick_run_gives_tables_plots_and_a_run(tracking, tmp_path):
    names = ["ours", "stock", "judge", "json", "genai-constrained"]
    command = [sys.executable, "-m", "benchmarks.evaluation", "--quick", "--contenders", ",".join(names)]
    done = subprocess.run([*command, "--output", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=870)
    assert done.returncode == 0, done.stderr
    tables = {what: read(tmp_path / f"evaluation_{what}_tiny.csv") for what in ("evaluator", "parts", "judge")}
    assert not [row for rows in tables.values() for row in rows if row["failure"]]
    for what, rows in tables.items():
        assert (tmp_path / f"evaluation_{what}_tiny.png").read_bytes().startswith(b"\x89PNG")
        assert all(float(row["value"]) > 0 for row in rows if row["contender"] != "all else"), rows
    assert {(row["load"], row["contender"]) for row in tables["evaluator"]} == {
        (load, name) for load in ("with latency()", "without latency()") for name in ("ours", "stock")
    }
    valid = {row["contender"]: row["value"] for row in tables["judge"] if row["figure"] == VALID}
    assert valid == dict.fromkeys(["judge", "json", "genai-constrained"], "1.0")
    written = [float(row["value"]) for row in tables["judge"] if row["figure"] == "written tokens"]
    assert written == [pytest.approx(40, abs=2)]
    run = mlflow.get_run(done.stdout.split()[-1])
    assert run.data.metrics["judge/judge/CPU of json"] > 0
    assert run.data.params["data_rows"] == "6"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_contender_that_fails_says_why(tmp_path):
    job = Job("evaluator", "ours", LOAD, "tiny", 2, 4, str(tmp_path / "nowhere"))
    result = perform(job, tmp_path)
    assert result.figures == {}
    assert "nowhere" in result.failure


def test_speed_is_stock_through_ours_and_held_against_its_bar():
    results = {(LOAD, "ours"): took(1.0, 2.0, 9.0), (LOAD, "stock"): took(8.2, 8.2, 7.0)}
    rows = list(rows_of(ABOUT, results))
    speed = found_in(rows, "ours", SPEED[WALL])
    assert (speed.value, speed.bar, speed.holds, speed.runs) == (4.1, "at least 4", True, 3)
    assert found_in(rows, "ours", SPEED[CPU]).bar == ""
    own = found_in(rows, "ours", WALL)
    assert (own.value, own.lowest, own.highest) == (2.0, 1.0, 9.0)


@pytest.mark.parametrize(("seconds", "holds"), [(0.6, True), (0.7, False)])
def test_judge_is_held_against_its_part_of_the_cpu_seconds_of_a_written_verdict(seconds, holds):
    results = {("", "judge"): took(seconds), ("", "json"): took(1.0), ("", "judge-default"): took(0.6)}
    rows = list(rows_of(JUDGES_ABOUT, results))
    share = found_in(rows, "judge", of_cpu("json"))
    assert (share.value, share.bar, share.holds) == (seconds, "at most 0.65", holds)
    assert found_in(rows, "judge-default", of_cpu("json")).bar == ""


def test_bars_are_for_one_size_only():
    small = About("judge", "tiny", 200, 32, "a machine", "python 3", "2026-01-01", "...")
    [*_, share] = rows_of(small, {("", "judge"): took(1.0, **{FORWARD_SHARE: 9.0})})
    assert (share.figure, share.value, share.holds) == (FORWARD_SHARE, 9.0, None)


def test_failed_turn_is_a_row_and_others_have_figures_and_no_ratio_to_it(tmp_path):
    results = {(LOAD, "stock"): [Result(failure="it broke")], (LOAD, "ours"): took(1.0)}
    rows = list(rows_of(ABOUT, results))
    assert [(row.contender, row.figure, row.failure) for row in rows] == [
        ("stock", "", "it broke"),
        ("ours", WALL, ""),
        ("ours", CPU, ""),
    ]
    assert "stock with latency(), failed: it broke" in str(table_of(rows).caption)
    assert plot(rows, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_parts_add_up_to_the_whole():
    parts, whole = Parts(), Stopwatch()
    with whole.running():
        parts.timed("sums", sum)(range(100_000))
        parts.timed("sums", sum)(range(100_000))
        sum(range(100_000))
    found = parts.figures(whole)
    assert list(found) == ["sums", "all else"]
    assert found["sums"][WALL] > 0 < found["all else"][WALL]
    assert sum(part[WALL] for part in found.values()) == pytest.approx(whole.wall)
    rows = list(part_rows(ABOUT, {(LOAD, "ours"): [Result(whole.figures(), found)], (LOAD, "stock"): took(1.0)}))
    assert {row.what for row in rows} == {"parts"}
    assert sum(row.value for row in rows if row.figure == SHARE) == pytest.approx(1, abs=1e-3)


def test_functions_are_timed_under_their_names_and_are_themselves_again_after_it():
    parts = Parts()
    original = judged.common = lambda: 7
    try:
        with parts.of_functions({"seven": ((judged, "common"),)}):
            assert judged.common() == 7
        assert judged.common is original
    finally:
        del judged.common
    assert parts.watches["seven"].wall > 0


@pytest.mark.parametrize("vocabulary", [1024, 8192])
def test_rubric_has_about_250_tokens_and_rows_from_100_to_250(vocabulary):
    tokenizer = judging_tokenizer(vocabulary)
    assert len(tokenizer) == vocabulary
    cases = Cases.of(tokenizer, 200)
    for rubric in (NUMBERS, WORDS):
        prompts = [ids_of(tokenizer, question.text()) for question in questions_of(cases, rubric)]
        shared = common_length(prompts)
        assert 235 <= shared <= 265
        own = [len(prompt) - shared for prompt in prompts]
        assert 100 <= min(own) < 130
        assert 220 < max(own) <= 255


def ids_of(tokenizer, text):
    chat = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(rendered)["input_ids"]


@pytest.mark.parametrize("vocabulary", [1024, 8192])
def test_options_have_one_token_or_up_to_four_as_the_judge_reads_them(vocabulary):
    tokenizer = judging_tokenizer(vocabulary)
    cases = Cases.of(tokenizer, 2)
    for rubric, lengths in ((NUMBERS, [1] * 5), (WORDS, [1, 2, 2, 3, 4])):
        for prepared in Reader(tokenizer, 8192).prepare(questions_of(cases, rubric)):
            assert [len(tail) for tail in prepared.tails] == lengths


def test_written_verdicts_are_asked_for_about_the_same_rows():
    cases = Cases(["first question", "second one"], ["an answer", "another one"])
    prompts = judged.written_prompts(cases)
    for question, answer, prompt in zip(cases.questions, cases.answers, prompts, strict=True):
        assert question in prompt
        assert answer in prompt
        assert prompt.endswith(JSON_REMINDER)
    assert common_length(prompts) > 900  # letters


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ('{"score": 4, "justification": " it holds."}', True),
        ('{"score": 6, "justification": "beyond"}', False),
        ('{"score": 4, "justification": "cut', False),
        ("4", False),
    ],
)
def test_verdict_is_valid_if_it_is_json_with_a_score_on_the_scale(text, is_one):
    assert is_verdict(text) is is_one


def test_constraint_asks_for_json_with_a_sentence():
    sentence = " word" * judged.SENTENCE_WORDS
    text = f'{{"score": 2, "justification": "{sentence}."}}'
    assert re.fullmatch(VERDICT, text)
    assert is_verdict(text)
    assert not re.fullmatch(VERDICT, text.replace("2", "6"))


def test_quick_options_are_small_and_what_was_given_counts():
    options = parse_arguments("", ["--quick", "--rows", "9", "--contenders", "ours,judge"])
    assert (options.models, options.rows, options.runs, options.what) == (["tiny"], 9, 1, ["evaluator", "judge"])
    assert parse_arguments("", []).rows == 200


def test_only_chosen_contenders_take_turns_and_the_order_is_reversed_from_run_to_run():
    options = parse_arguments("", ["--runs", "2", "--contenders", "ours,stock,json"])
    evaluators = Turns.of("evaluator", "tiny", options, Path("artifacts"))
    order = list(evaluators._order())
    assert set(order) == {(load, name) for load in (LOAD, "without latency()") for name in ("ours", "stock")}
    assert order[4:] == order[:4][::-1]
    assert list(Turns.of("judge", "tiny", options, Path("artifacts")).jobs) == [("", "json")]


def test_run_has_every_figure_under_a_name_that_mlflow_allows(tracking, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("x")
    results = {(LOAD, "ours"): took(1.0), (LOAD, "stock"): took(2.0)}
    rows = list(rows_of(ABOUT, results))
    run = mlflow.get_run(log_rows(rows, {"runs": 1}, [file]))
    assert run.data.metrics[name_of(found_in(rows, "ours", SPEED[WALL]))] == 2.0
    assert run.data.metrics["evaluator/with latency/stock/wall s"] == 2.0
    assert len(run.data.metrics) == len(rows)
    assert run.data.params["model"] == "40m"

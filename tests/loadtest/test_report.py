"""Figures are shown and saved under their names, and unknown ones as such."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from mlflow_llm_plugins.loadtest import Load, LoadResult, Objective, RequestResult, Target
from mlflow_llm_plugins.loadtest.report import save, tables_of

GOOD = RequestResult(
    sent_s=0.0, ended_s=2.0, first_token_s=0.5, gaps_s=(0.25, 0.75), prompt_tokens=3, completion_tokens=4, status=200
)
UNCOUNTED = RequestResult(sent_s=0.0, ended_s=4.0, first_token_s=1.0, gaps_s=(3.0,), status=200)
FAILED = RequestResult(sent_s=0.0, ended_s=1.0, failure="HTTP 500 [bold]", status=500, late_s=0.125)


def result_of(*requests: RequestResult, interrupted: bool = False, stream: bool = True, **load: object) -> LoadResult:
    return LoadResult(
        target=Target(url="http://localhost:1", model="m", api_key_env="MY_KEY", stream=stream),
        load=Load(**{"clients": 2, "requests": 3, **load}),
        requests=requests,
        date="2020-01-01T00:00:00+00:00",
        cpu_s=0.5,
        interrupted=interrupted,
    )


def shown(result: LoadResult, objective: Objective | None = None) -> dict[str, list[str]]:
    """First cell of each row -> the others."""
    console = Console(file=io.StringIO(), record=True, width=150)
    console.print(tables_of(result, objective))
    lines = console.export_text().replace("│", "┃").splitlines()
    rows = [[cell.strip() for cell in line.strip(" ┃").split("┃")] for line in lines if "┃" in line]
    return {first: others for first, *others in rows}


def test_table_has_throughput_and_latencies():
    rows = shown(result_of(GOOD, FAILED), Objective(ttft=0.5, e2el=5))
    assert rows["answered requests"] == ["1 of 3"]
    assert rows["failed: HTTP 500 [bold]"] == ["1"]
    assert rows["requests a second"] == rows["of them with ttft 0.5 s, e2el 5 s (goodput)"] == ["0.50"]
    assert rows["output tokens a second"] == ["2.0"]
    assert rows["tokens in and out"] == ["3 and 4"]
    assert rows["a core's time that the generator took"] == ["25%"]
    assert rows["inter-token latency, all gaps pooled"] == ["0.500", "0.500", "0.700", "0.745"]
    assert rows["time per output token, one mean a request"] == ["0.500"] * 4


def test_table_says_what_is_unknown_and_why():
    rows = shown(result_of(UNCOUNTED), Objective(tpot=1))
    assert rows["output tokens a second"] == rows["of them with tpot 1 s (goodput)"] == ["unknown"]
    assert rows["tokens in and out"] == ["unknown and unknown"]
    assert rows["answers without usage, so of unknown tokens"] == ["1"]
    assert rows["time per output token, one mean a request"] == ["unknown"] * 4


def test_table_of_whole_answers_has_their_end_to_end_latency_alone():
    rows = shown(result_of(GOOD, stream=False))
    assert rows["end-to-end latency"] == ["2.000"] * 4
    assert not {"time to first token", "inter-token latency, all gaps pooled"} & rows.keys()


def test_table_of_an_open_loop_says_how_late_it_was():
    rows = shown(result_of(GOOD, FAILED, clients=None, rate=2.5))
    assert rows["sent late by up to"] == ["0.125 s"]


def test_table_of_an_interrupted_load_says_so_even_without_results():
    rows = shown(result_of(interrupted=True), Objective(ttft=1))
    assert rows["answered requests"] == ["0 of 3"]
    assert rows["interrupted, not ended"] == ["3"]


def test_saved_file_has_the_figures_and_every_request(tmp_path):
    save(result_of(GOOD, FAILED), tmp_path / "load.json", Objective(e2el=5))
    saved = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    assert saved["target"]["api_key_env"] == "MY_KEY"
    assert saved["load"]["clients"] == 2
    assert (saved["duration_s"], saved["requests_per_second"], saved["output_tokens_per_second"]) == (2.0, 0.5, 2.0)
    assert saved["goodput"] == {"limits": {"e2el": 5.0}, "requests_per_second": 0.5}
    assert saved["inter_token_latency"] == pytest.approx(
        {"mean": 0.5, "p50": 0.5, "p90": 0.7, "p99": 0.745, "count": 2}
    )
    assert saved["failures"] == {"HTTP 500 [bold]": 1}
    assert [RequestResult(**{**each, "gaps_s": tuple(each["gaps_s"])}) for each in saved["requests"]] == [GOOD, FAILED]


def test_saved_file_has_null_for_what_is_unknown(tmp_path):
    save(result_of(UNCOUNTED), tmp_path / "load.json")
    saved = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    unknown = ("output_tokens_per_second", "completion_tokens", "time_per_output_token")
    assert [saved[name] for name in unknown] == [None] * 3
    assert saved["goodput"] == {"limits": {}, "requests_per_second": None}

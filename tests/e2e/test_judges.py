"""MLflow's unmodified judges on a stock `mlflow models serve`: by typed decisions, and by a JSON schema."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import mlflow
import pytest
from mlflow.exceptions import MlflowException

pytestmark = pytest.mark.slow

ROWS = 100
ROWS_BY_SCHEMA = 30  # which takes many steps for each
KINDS = {"bool": bool, "words": Literal["good", "fair", "bad"], "numbers": Literal[1, 2, 3, 4, 5]}
UNFINISHED = "Failed to parse response from judge model"  # what MLflow says of half an object


@dataclass(frozen=True, slots=True)
class Speech:
    """How a judge asks a model."""

    path: str  # below OpenAI's API
    arguments: dict[str, Any]
    key: str  # the environment variable of its key

    def judge(self, url: str, kind: Any) -> mlflow.genai.judges.Judge:
        """A stock judge."""
        instructions = "How good is {{ outputs }} as an explanation?"
        where = {**self.arguments, "base_url": url + self.path}
        return mlflow.genai.make_judge("quality", instructions, feedback_value_type=kind, **where)


SYSTEM_ONE = Speech("", {"model": "typesafe:/any"}, "TYPESAFE_API_KEY")
DECISIONS = Speech("", {"model": "openai:/any", "model_api": "decisions"}, "OPENAI_API_KEY")
SCHEMA = Speech("/chat/completions", {"model": "ollama:/any"}, "OLLAMA_API_KEY")
DRAWN = replace(SCHEMA, arguments={**SCHEMA.arguments, "inference_params": {"temperature": 1, "seed": 1}})


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a judge said of some rows."""

    values: list[Any]
    unfinished: int  # rows without a verdict, whose answers ended for their length
    seconds: list[float]  # for each verdict


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    """What the judges ask for though the server does not."""
    for speech in (SYSTEM_ONE, DECISIONS):
        monkeypatch.setenv(speech.key, "none")


@pytest.fixture(scope="module")
def rows(held_out):
    """Pieces of real text."""
    words = " ".join(held_out).split()
    return [" ".join(words[20 * i : 20 * (i + 1)]) for i in range(ROWS)]


def verdicts(server, speech: Speech, kind: Any, rows: Sequence[str]) -> Verdicts:
    """Have a stock judge look at each row.

    Raises:
        MlflowException: There is no verdict, though the answer did not end for its length.
    """
    judge = speech.judge(server.url, kind)
    values, seconds = [], []
    for row in rows:
        before = server.metric("completion_tokens_total")
        began = time.perf_counter()
        try:
            values.append(judge(outputs=row).value)
            seconds.append(time.perf_counter() - began)
        except MlflowException as error:
            generated = server.metric("completion_tokens_total") - before
            if UNFINISHED not in str(error) or generated != server.new_tokens:
                raise
    return Verdicts(values, len(rows) - len(values), seconds)


def are_valid(values: Sequence[Any], kind: Any) -> bool:
    """Whether each has the very value and type of one that was allowed."""
    allowed = [(type(value), value) for value in ((True, False) if kind is bool else get_args(kind))]
    return all((type(value), value) in allowed for value in values)


@pytest.mark.parametrize("kind", KINDS)
def test_system_one_gives_a_valid_verdict_for_every_row(server, rows, kind):
    found = verdicts(server, SYSTEM_ONE, KINDS[kind], rows)
    assert len(found.values) == ROWS
    assert are_valid(found.values, KINDS[kind])


@pytest.mark.parametrize("kind", ["bool", "words"])  # MLflow itself refuses numbers here
def test_openai_decisions_give_a_valid_verdict_for_every_row(server, rows, kind):
    found = verdicts(server, DECISIONS, KINDS[kind], rows)
    assert len(found.values) == ROWS
    assert are_valid(found.values, KINDS[kind])


@pytest.mark.parametrize("speech", [SCHEMA, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_gives_a_valid_verdict_for_every_answer_that_is_not_cut(server, rows, speech, kind, capsys):
    by_schema = verdicts(server, speech, KINDS[kind], rows[:ROWS_BY_SCHEMA])
    by_decision = verdicts(server, SYSTEM_ONE, KINDS[kind], rows[:ROWS_BY_SCHEMA])
    assert by_schema.values
    assert are_valid(by_schema.values, KINDS[kind])
    with capsys.disabled():
        print("\n" + compared(by_schema, by_decision, server.new_tokens))


def compared(by_schema: Verdicts, by_decision: Verdicts, new_tokens: int) -> str:
    """One line on both."""
    slow, fast = (1000 * statistics.median(found.seconds) for found in (by_schema, by_decision))
    total = len(by_schema.values) + by_schema.unfinished
    return (
        f"a verdict by schema {slow:.0f} ms, by decision {fast:.0f} ms ({slow / fast:.1f} times faster); "
        f"{by_schema.unfinished} of {total} by schema unfinished at {new_tokens} tokens"
    )


def test_judges_send_the_key_of_their_provider(serve, rows, monkeypatch):
    with serve(MLFLOW_LLM_API_KEY="right") as server:
        server.http.headers["authorization"] = "Bearer right"  # for its metrics
        for speech in (SYSTEM_ONE, DECISIONS, SCHEMA):
            judge = speech.judge(server.url, bool)
            monkeypatch.setenv(speech.key, "wrong")
            with pytest.raises(MlflowException, match=r"401|valid API key"):
                judge(outputs=rows[0])
            monkeypatch.setenv(speech.key, "right")
            assert are_valid(verdicts(server, speech, bool, rows[:1]).values, bool)

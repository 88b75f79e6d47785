"""Questions asked together: what hangs costs its row, a server without a word ends the call, and so does Ctrl-C."""

from __future__ import annotations

import threading

import pytest

from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.question import Opinion
from tests.metrics.judge.remote_server import a_question

SILENCE = UnansweredError("the judge did not answer within 1 s", is_transient=True)
WITHIN_S = 5  # for a wait that a sound program ends at once


def questions(*texts):
    return [a_question(text) for text in texts]


def text_of(question):
    return question.sections[-1].text


def ask(rows, answer, *texts):
    return rows.ask(lambda question: answer(text_of(question)), questions(*texts), progress=False)


def test_rows_that_hang_together_while_others_are_answered_cost_themselves_alone():
    answered, hung = [], []
    many_answered, all_hung = threading.Event(), threading.Event()

    def answer(text):
        if text == "hangs":
            assert many_answered.wait(WITHIN_S)
            hung.append(text)
            if len(hung) == 4:
                all_hung.set()
            raise SILENCE
        if len(answered) >= 20:  # four fail in a row, with no answer in between
            many_answered.set()
            assert all_hung.wait(WITHIN_S)
        answered.append(text)
        return Opinion(choice=0)

    texts = [*["good"] * 5, "hangs", *["good"] * 3, "hangs", *["good"] * 2, "hangs", "hangs", *["good"] * 400]
    opinions = ask(RowsInFlight(8, max_unanswered=3), answer, *texts)
    assert [opinion.choice for opinion in opinions] == [None if text == "hangs" else 0 for text in texts]


def test_rows_that_hang_in_turn_while_others_are_answered_are_no_reason_to_give_up():
    texts = ["first", *[text for i in range(20) for text in (f"hangs {i}", "good")], "hangs 20"]
    asked = [threading.Event() for _ in range(21)]

    def answer(text):
        if not text.startswith("hangs"):
            return Opinion(choice=0)
        number = int(text.removeprefix("hangs "))
        asked[number].set()
        if number < 20:
            assert asked[number + 1].wait(WITHIN_S)  # until the answer in between has arrived
        raise SILENCE

    opinions = ask(RowsInFlight(2, max_unanswered=1), answer, *texts)
    assert {opinion.error for opinion in opinions[1::2]} == {str(SILENCE)}
    assert {opinion.choice for opinion in opinions[2::2]} == {0}


def test_a_server_that_dies_in_the_middle_is_given_up_though_it_answered_before():
    asked = []
    opened = threading.Barrier(4)

    def answer(text):
        asked.append(text)
        if text == "good":
            return Opinion(choice=0)
        if len(asked) <= 6:  # the first four, which are open at once
            opened.wait(WITHIN_S)
        raise SILENCE

    opinions = ask(RowsInFlight(4, max_unanswered=3), answer, "good", "good", *["dead"] * 100)
    assert asked.count("dead") <= 3 + 4 + 4  # counted, open by then, asked before the last answer
    assert opinions[-1].error == (
        "the judge did not answer within 1 s; not asked, as that happened to 3 questions in a row (raise "
        "max_unanswered to go on longer)"
    )


def test_a_call_counts_for_itself():
    rows = RowsInFlight(1, max_unanswered=2)
    asked = []

    def answer(text):
        asked.append(text)
        raise SILENCE

    for _ in range(2):
        ask(rows, answer, "x", "x", "x")
    assert len(asked) == 4


@pytest.fixture
def released():
    """Ends the threads that a test leaves behind."""
    event = threading.Event()
    yield event
    event.set()


def test_an_interruption_is_raised_while_questions_are_open_and_nothing_more_is_asked(released):
    rows = RowsInFlight(2)
    asked, ended = [], []

    def answer(text):
        asked.append(text)
        if text == "first":
            return Opinion(choice=0)
        if text == "interrupts":
            raise KeyboardInterrupt  # comes out where the caller waits, as Ctrl-C does
        ended.append(released.wait(WITHIN_S))
        return Opinion(choice=0)

    with pytest.raises(KeyboardInterrupt):
        ask(rows, answer, "first", "interrupts", *["waits"] * 20)
    assert ended == []
    assert len(asked) <= 4


def test_a_thread_that_outlives_its_call_stays_stopped_and_a_later_call_is_not(released):
    rows = RowsInFlight(2)
    told = []
    ready, all_told = threading.Event(), threading.Event()

    def answer(text):
        if text == "interrupts":
            assert ready.wait(WITHIN_S)
            raise KeyboardInterrupt
        if text == "outlives":
            ready.set()
            assert released.wait(WITHIN_S)
            told.append(rows.stopping.is_set())
            all_told.set()
        return Opinion(error=str(rows.stopping.is_set()))

    with pytest.raises(KeyboardInterrupt):
        ask(rows, answer, "first", "interrupts", "outlives")
    later = ask(rows, answer, *["later"] * 4)
    released.set()
    assert all_told.wait(WITHIN_S)
    assert told == [True]
    assert {opinion.error for opinion in later} == {"False"}

"""Chats as verdicts and rationales: rows that are refused together, and texts that are cut off."""

from __future__ import annotations

import json
import threading

import pytest

from tests.metrics.judge.remote_server import Reply, a_question, remote_server
from tests.metrics.judge.test_remote_server import (  # noqa: F401  # the fixture, too
    chat,
    completion,
    errors,
    judge_of,
    no_key,
    systemone,
)


@pytest.mark.parametrize(
    ("parameter", "named"),
    [("logprobs", "logprobs"), ("temperature", "temperature"), ("max_tokens", "max_completion_tokens")],
)
def test_rows_whose_parameter_is_refused_at_the_same_time_are_all_asked_without_it(parameter, named):
    full = threading.Barrier(4)

    def picky(body):
        if "hiccup" in json.dumps(body):
            return Reply({}, 500)
        if parameter not in body:
            return chat(body)
        full.wait(10)  # until four have been sent with it
        return Reply({"error": {"message": f"Unsupported parameter: {named}"}}, 400)

    with remote_server(chat=picky) as server:
        judge = judge_of(server, route="chat", max_in_flight=4, max_tokens=50)
        texts = ["hiccup", "good", "bad", "good", "bad"]
        opinions = judge.ask([a_question(text) for text in texts], progress=False)
        judge.close()
    assert errors(opinions) == ["the judge answered with HTTP status 500", *[None] * 4]
    assert [opinion.choice for opinion in opinions[1:]] == [0, 1, 0, 1]


def test_a_parameter_that_was_not_sent_is_not_left_out_again_and_again():
    with remote_server(chat=lambda _: Reply({"error": {"message": "temperature and logprobs"}}, 400)) as server:
        judge = judge_of(server, route="chat")
        opinions = judge.ask([a_question("good")], progress=False)
        judge.close()
    assert errors(opinions) == ["the judge answered with HTTP status 400"]
    assert len(server.received) == 2


@pytest.mark.parametrize(("written", "kept"), [(" Because it is right, and", "Because it is right, and"), ("", None)])
def test_a_rationale_that_was_cut_off_is_kept_as_far_as_it_goes(written, kept):
    with remote_server(systemone=systemone, chat=lambda _: completion(written, finish_reason="length")) as server:
        judge = judge_of(server)
        (opinion,) = judge.ask([a_question("good")], rationale=True, progress=False)
        judge.close()
    assert (opinion.choice, opinion.rationale) == (0, kept)

"""The child on its own: messages in, one message a step out, and a last one when its pipeline breaks."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import suppress
from types import SimpleNamespace

import openvino_genai
import pytest

from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess
from mlflow_llm_plugins.generation.openvino.messages import (
    End,
    Failed,
    PipelineArguments,
    Ready,
    Refusal,
    Start,
    Step,
)
from mlflow_llm_plugins.generation.openvino.pipeline_process import PipelineLoop
from tests.generation.conftest import plain_greedy, random_prompts
from tests.models import random_model

WAIT_S = 60.0
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 2}
CACHE_TOO_SMALL = "the KV cache does not hold its prompt and answer; raise num_blocks or kv_cache_memory"
SERVE = "mlflow_llm_plugins.generation.openvino.pipeline_process:serve"


@pytest.fixture
def child(ir_folder):
    arguments = PipelineArguments(str(ir_folder("llama")), 8, 4, 32, True, PROPERTIES)  # 256 tokens
    process = ChildProcess(SERVE, arguments, "test-pipeline")
    process.start()
    try:
        assert isinstance(process.receive(WAIT_S), Ready)
        yield process
    finally:
        process.close(WAIT_S)


def answers(child, count):
    """The tokens of each request, and refusals, until so many have ended."""
    tokens, refusals, ended = {}, {}, 0
    while ended < count:
        step = child.receive(WAIT_S)
        assert isinstance(step, Step), step
        for part in step.tokens:
            tokens.setdefault(part.request_id, []).extend(part.token_ids)
        refusals |= {refusal.request_id: refusal.reason for refusal in step.refusals}
        ended += sum(part.is_last for part in step.tokens) + len(step.refusals)
    return tokens, refusals


def greedy(tokens=10, **fields):
    return {"max_new_tokens": tokens, "ignore_eos": True, **fields}


def test_more_requests_than_rows_are_all_answered(child):
    prompts = random_prompts(3, 40, 90, 12, 33, 64, 1)
    for number, prompt in enumerate(prompts):
        child.send(Start(number, prompt, greedy()))
    tokens, refusals = answers(child, len(prompts))
    model = random_model("llama")
    assert tokens == {number: plain_greedy(model, prompt, 10) for number, prompt in enumerate(prompts)}
    assert refusals == {}


def test_steps_are_counted_and_each_is_told_once(child):
    child.send(Start(1, random_prompts(70)[0], greedy(5)))
    steps = []
    while not steps or not (steps[-1].tokens and steps[-1].tokens[-1].is_last):
        steps.append(child.receive(WAIT_S))
    assert [step.number for step in steps] == list(range(1, 8))  # 70 tokens in three steps of 32, then one a token
    assert [len(step.tokens) for step in steps] == [0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("prompt", "fields", "reason"),
    [
        ([9, 10], {"max_new_tokens": 0, "ignore_eos": True}, "max_new_tokens"),
        ([9, 10], greedy(do_sample=True, temperature=0.0), "temperature must be a strictly positive float"),
        ([9, 10], greedy(no_such_field=1), "no_such_field"),
        ([], greedy(), ""),
        ([9] * 300, greedy(), CACHE_TOO_SMALL),
        ([9] * 250, greedy(50), CACHE_TOO_SMALL),
    ],
    ids=[
        "no tokens",
        "no temperature",
        "unknown field",
        "no prompt",
        "prompt over the cache",
        "answer over the cache",
    ],
)
def test_a_request_that_the_library_does_not_take_is_refused_alone(child, prompt, fields, reason):
    neighbour = random_prompts(10)[0]
    child.send(Start(1, neighbour, greedy()))
    child.send(Start(2, prompt, fields))
    tokens, refusals = answers(child, 2)
    assert tokens[1] == plain_greedy(random_model("llama"), neighbour, 10)
    assert reason in refusals[2]
    assert "openvino.genai" not in refusals[2]  # no path of the library's sources
    assert "\n" not in refusals[2]
    child.send(Start(3, neighbour, greedy()))
    assert answers(child, 1)[0] == {3: tokens[1]}


def test_an_answer_that_is_ended_leaves_its_row_to_the_next(child):
    for number in range(4):
        child.send(Start(number, random_prompts(5)[0], greedy(200)))
    child.send(Start(4, random_prompts(5)[0], greedy(3)))
    child.receive(WAIT_S)
    for number in range(4):
        child.send(End(number))
    child.send(End(99))
    last = {}
    while 4 not in last:
        step = child.receive(WAIT_S)
        last |= {part.request_id: part for part in step.tokens if part.is_last}
    assert set(last) == {4}


def test_a_pipeline_that_breaks_says_why_and_the_child_ends(child):
    child.send(Start(1, [9, 10], greedy(50)))
    child.send(Start(2, [9, 10], greedy(structured_output=("regex", "(unclosed"))))
    message = child.receive(WAIT_S)
    while isinstance(message, Step):
        message = child.receive(WAIT_S)
    assert isinstance(message, Failed)
    assert message.reason.startswith("RuntimeError: ")
    assert "\n" not in message.reason
    with pytest.raises(EOFError):
        child.receive(WAIT_S)
    assert child.wait(WAIT_S)
    assert child.ending() == "it ended with status 0"


def test_refusals_are_told_also_when_nothing_else_runs(child):
    child.send(Start(1, [], greedy()))
    step = child.receive(WAIT_S)
    assert isinstance(step.refusals[0], Refusal)


class Outputs:
    """A request of the library's that gets no token."""

    def __init__(self, reason, status):
        self.reason, self.status = reason, status
        self.unread = [] if reason is None else [reason]

    def can_read(self):
        return bool(self.unread)

    def read(self):
        reason = self.unread.pop()
        return {0: SimpleNamespace(generated_ids=[], generated_log_probs=[], finish_reason=reason)}

    def get_status(self):
        return self.status


class GivingUp:
    """In place of the library's pipeline: ends each request in one step without a token."""

    def __init__(self, reason, status):
        self.reason, self.status = reason, status
        self.unfinished = 0

    def add_request(self, request_id, prompt, config):
        self.unfinished += 1
        return Outputs(self.reason, self.status)

    def has_non_finished_requests(self):
        return self.unfinished > 0

    def step(self):
        self.unfinished = 0


@pytest.mark.parametrize("status", ["RUNNING", "FINISHED", "CANCEL", "STOP"])
@pytest.mark.parametrize("reason", [None, "LENGTH", "STOP"])
def test_requests_that_end_without_a_token_are_told_and_leave_their_rows_to_others(reason, status):
    pipeline = GivingUp(
        reason and getattr(openvino_genai.GenerationFinishReason, reason),
        getattr(openvino_genai.GenerationStatus, status),
    )
    ours, theirs = multiprocessing.Pipe()
    loop = PipelineLoop(theirs, pipeline, PipelineArguments("", 8, 1, 32, True, {}))

    def run():
        with suppress(EOFError):
            loop.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for number in range(3):
        ours.send(Start(number, [9, 10], greedy()))
    told = []
    while len(told) < 3:
        assert ours.poll(WAIT_S)
        step = ours.recv()
        told += [part.request_id for part in step.tokens if part.is_last]
        told += [refusal.request_id for refusal in step.refusals]
    assert told == [0, 1, 2]
    ours.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()

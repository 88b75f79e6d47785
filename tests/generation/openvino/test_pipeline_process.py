"""The child on its own: messages in, one message a step out, and a last one when its pipeline breaks."""

from __future__ import annotations

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
from tests.generation.conftest import plain_greedy, random_prompts
from tests.models import random_model

WAIT_S = 60.0
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 2}
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
        ([9] * 300, greedy(), "the KV cache does not hold its prompt and answer"),
        ([9] * 250, greedy(50), "the KV cache does not hold its prompt and answer"),
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

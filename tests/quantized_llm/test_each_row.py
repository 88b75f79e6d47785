"""Rows of which each stands for itself: one that fails leaves the others alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlflow_llm_plugins.errors import (
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    LLMError,
    PromptTooLongError,
    QueueFullError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.quantized_llm.pyfunc import QuantizedLLMPyfunc
from tests.models import byte_tokenizer
from tests.quantized_llm.fake_engine import FAILS, FakeEngine

CHAT, COMPLETIONS = "llm/v1/chat", "llm/v1/completions"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def engine(tokenizer):
    return FakeEngine(tokenizer)


def model(engine, task=COMPLETIONS, **options):
    return QuantizedLLMPyfunc(engine, model_name="tiny", task=task, **options)


def texts(answers):
    return [answer if isinstance(answer, LLMError) else answer.text for answer in answers]


class DyingEngine(FakeEngine):
    """Takes some requests and then none any more."""

    def __init__(self, tokenizer, takes):
        super().__init__(tokenizer)
        self.takes = takes
        self.refused = 0

    def submit(self, request):
        if len(self.requests) >= self.takes:
            self.refused += 1
            raise EngineUnavailableError("The generation thread died.")
        return super().submit(request)


class InterruptedEngine(FakeEngine):
    """The user interrupts while a third request is made."""

    def submit(self, request):
        if len(self.requests) == 2:
            raise KeyboardInterrupt
        return super().submit(request)


def test_a_row_that_fails_leaves_all_others_alone_wherever_it_stands(engine):
    draw = random.Random(3)
    prompts = [f"{FAILS}{i}" if draw.random() < 0.3 else f"row {i}" for i in range(50)]
    answers = model(engine, max_in_flight=7).predict_each(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        if FAILS in prompt:
            assert isinstance(answer, GenerationError)
            assert str(answer) == "The logits are not finite."
        else:
            assert answer.text == f"[{prompt}]"
    assert engine.most_open == 7
    assert engine.open == []


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        ("", InvalidInputError, "The prompt is empty"),
        ("x" * 50, PromptTooLongError, "Prompt and answer would have 51 tokens, the context has 20."),
        ("x" * 10_000, PromptTooLongError, "The prompt has 10000 characters, more than fit"),
        ([{"role": "robot", "content": "x"}], InvalidInputError, "messages[0].role must be one of"),
        ([], InvalidInputError, "A row must be a string or a list of messages, got list."),
        ({"question": "secret", "b": 1}, InvalidInputError, "A row must be a string or a list of messages, got dict."),
        (None, InvalidInputError, "A row must be a string or a list of messages, got None."),
        (float("nan"), InvalidInputError, "A row must be a string or a list of messages, got nan."),
        (7, InvalidInputError, "A row must be a string or a list of messages, got 7."),
    ],
)
def test_a_row_that_cannot_be_asked_becomes_its_error(tokenizer, bad, kind, reason):
    first, failed, last = model(FakeEngine(tokenizer, context=20)).predict_each(["a", bad, "b"])
    assert (first.text, last.text) == ("[a]", "[b]")
    assert type(failed) is kind
    assert reason in str(failed)
    assert "row 1" not in str(failed)
    assert "secret" not in str(failed)


@pytest.mark.parametrize("conversation", [list, np.array])
def test_conversations_are_rows(engine, conversation):
    cell = conversation([{"role": "user", "content": "hi"}])
    (answer,) = model(engine, CHAT).predict_each([cell])
    assert answer.text == "[<|bos|><|user|>hi<|end|><|assistant|>]"


@pytest.mark.parametrize("task", [CHAT, COMPLETIONS])
def test_each_row_is_answered_as_predict_answers_it(engine, task):
    rows = ["a", "b", [{"role": "user", "content": "hi"}]]
    params = {"max_tokens": 9, "seed": 5}
    assert texts(model(engine, task).predict_each(rows, params)) == model(engine, task).predict(rows, params)


@pytest.mark.parametrize(
    ("params", "kind", "complaint"),
    [
        ({"n": 2}, UnsupportedFeatureError, "n=2 is not supported for rows"),
        ({"temperature": "hot"}, InvalidInputError, "temperature must be a finite number, got 'hot'."),
        ({"temperature": -1}, InvalidInputError, "temperature must be from 0 (greedy) to 100, got -1"),
        ({"guided_regex": "a+"}, UnsupportedFeatureError, "guided_regex is not supported"),
        ({"max_tokens": 40}, PromptTooLongError, "the context has 20"),
    ],
)
def test_parameters_that_are_wrong_for_any_row_are_refused_before_anything_is_generated(
    tokenizer, params, kind, complaint
):
    engine = FakeEngine(tokenizer, context=20)
    with pytest.raises(kind) as refusal:
        model(engine).predict_each(["a", None, "b"], params)
    assert complaint in str(refusal.value)
    assert engine.requests == []


def test_parameters_that_are_not_given_are_not_seen(engine):
    model(engine).predict_each(["a"], {"top_k": None, "stop_sequences": []})
    assert (engine.requests[0].top_k, engine.requests[0].stop) == (None, ())


def test_with_one_in_flight_each_row_has_the_engine_to_itself(engine):
    prompts = [f"row {i}" for i in range(5)]
    assert texts(model(engine, max_in_flight=8).predict_each(prompts, max_in_flight=1)) == [f"[{p}]" for p in prompts]
    assert engine.most_open == 1


@pytest.mark.parametrize("wrong", [0, -3])
def test_none_in_flight_is_refused(engine, wrong):
    with pytest.raises(InvalidInputError, match=f"max_in_flight must be at least 1, got {wrong}"):
        model(engine).predict_each(["a"], max_in_flight=wrong)


def test_when_the_engine_dies_the_rows_that_are_left_say_so(tokenizer):
    engine = DyingEngine(tokenizer, takes=4)
    answers = model(engine, max_in_flight=2).predict_each([f"row {i}" for i in range(9)])
    assert texts(answers[:4]) == [f"[row {i}]" for i in range(4)]
    assert {str(answer) for answer in answers[4:]} == {"The generation thread died."}
    assert engine.refused == 5  # each asked once, none waited for


def test_a_queue_that_others_fill_is_shared(tokenizer):
    engine = FakeEngine(tokenizer, queue_size=5)
    engine.taken_by_others = 3
    prompts = [f"row {i}" for i in range(10)]
    assert texts(model(engine, max_in_flight=8).predict_each(prompts)) == [f"[{prompt}]" for prompt in prompts]
    assert engine.most_open == 2


def test_a_queue_full_of_others_is_each_row_s_reason(tokenizer):
    engine = FakeEngine(tokenizer, queue_size=5)
    engine.taken_by_others = 5
    answers = model(engine).predict_each(["a", "b"])
    assert [type(answer) for answer in answers] == [QueueFullError] * 2


def test_an_interrupt_leaves_nothing_in_the_engine(tokenizer):
    engine = InterruptedEngine(tokenizer)
    with pytest.raises(KeyboardInterrupt):
        model(engine).predict_each(["a", "b", "c"])
    assert [stream.was_cancelled for stream in engine.streams] == [True, True]


def test_no_rows_are_no_answers(engine):
    assert model(engine).predict_each([]) == []

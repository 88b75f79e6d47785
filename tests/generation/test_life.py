"""What happens to requests when something breaks: each gets an answer or an error; the engine goes on or says why."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.errors import (
    EngineUnavailableError,
    GenerationError,
    RequestCancelledError,
    RequestTimeoutError,
)
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, random_prompts, settings_for
from tests.generation.faults import ChildFault, Fault
from tests.models import byte_tokenizer

PROMPT = random_prompts(9)[0]
ENGINES = ["transformers", "generate", "openvino"]
LONG = GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=())


@pytest.fixture
def breakable(loadable):
    """A function: settings -> (engine, its fault), closed at the end."""
    opened = []

    def open_breakable(engine="transformers", tokenizer=None, **settings):
        model = loadable("llama", engine)
        fault = ChildFault() if engine == "openvino" else Fault(model, paged=engine == "transformers")
        settings = settings_for(engine, SMALL.model_copy(update=settings))
        opened.append((open_engine(model, tokenizer or byte_tokenizer(), settings, engine), fault))
        return opened[-1]

    yield open_breakable
    for engine, fault in opened:
        if isinstance(fault, Fault):
            fault.blocks.set()
        engine.close()


def answer(engine, prompt=PROMPT, **options):
    return engine.submit(GenerationRequest(prompt, **{"eos_token_ids": (), "max_new_tokens": 8, **options})).result()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
@pytest.mark.parametrize(
    ("engine_name", "error", "message"),
    [
        ("transformers", RuntimeError("boom"), r"The generation thread died: (RuntimeError: )?boom"),
        (
            "transformers",
            SystemExit("enough"),
            r"The generation thread died: it ended without an error\. It is being started again",
        ),
        (
            "openvino",
            signal.SIGKILL,
            r"The generation process died: it was ended by signal 9 \(SIGKILL\)\. It is being started again",
        ),
    ],
    ids=["an error", "a silent end", "a killed process"],
)
def test_when_the_generation_thread_dies_all_waiting_requests_fail_and_it_is_started_again(
    breakable, engine_name, error, message
):
    engine, fault = breakable(engine_name)
    expected = answer(engine).token_ids
    streams = [engine.submit(LONG) for _ in range(6)]  # two of them wait for a row
    next(iter(streams[0]))
    fault.error = error
    started = time.monotonic()
    for stream in streams:
        with pytest.raises(EngineUnavailableError, match=message):
            stream.result()
    assert time.monotonic() - started < 5
    assert wait_until(lambda: engine.stats().state == "running" and engine.stats().restarts == 1)
    assert answer(engine).token_ids == expected
    assert engine.stats().open_requests == 0


@pytest.mark.parametrize(
    ("engine_name", "error", "death"),
    [
        ("transformers", RuntimeError("boom"), "thread died: RuntimeError: boom"),
        ("openvino", signal.SIGABRT, "process died: it was ended by signal 6 (SIGABRT)"),
    ],
    ids=["transformers", "openvino"],
)
def test_a_thread_that_dies_too_often_stays_dead_and_says_so(breakable, engine_name, error, death):
    engine, fault = breakable(engine_name, max_restarts=1)
    for deaths in (1, 2):
        stream = engine.submit(LONG) if engine_name == "openvino" else None  # its process can die without a request
        fault.error = error
        with pytest.raises(EngineUnavailableError):
            stream.result() if stream else answer(engine)
        assert wait_until(lambda n=deaths: engine.stats().restarts == 1 and (n == 1 or engine.stats().state == "dead"))
        assert wait_until(lambda n=deaths: engine.stats().state == ("running" if n == 1 else "dead"))
    with pytest.raises(EngineUnavailableError) as refused:
        answer(engine)
    assert str(refused.value) == f"The generation {death}. It died 2 times within an hour and stays dead now."
    assert engine.stats().failure == str(refused.value)


def test_an_error_in_a_padded_group_fails_the_group_and_the_next_one_runs(breakable):
    engine, fault = breakable("generate")
    expected = answer(engine).token_ids
    fault.error = RuntimeError("boom")
    with pytest.raises(GenerationError, match=r"Generation failed: boom"):
        answer(engine)
    assert answer(engine).token_ids == expected
    assert engine.stats().restarts == 0


@pytest.mark.parametrize("engine_name", ["transformers", "generate"])
def test_a_step_that_does_not_return_fails_its_requests_and_refuses_others_until_it_does(breakable, engine_name):
    engine, fault = breakable(engine_name, step_timeout_s=0.4)
    expected = answer(engine).token_ids
    fault.blocks.clear()
    streams = [engine.submit(LONG) for _ in range(3)]
    assert fault.entered.wait(10)
    for stream in streams:
        with pytest.raises(EngineUnavailableError) as error:
            stream.result()
        assert str(error.value) == "A generation step has not returned within step_timeout_s=0.4 s."
    assert engine.stats().state == "stalled"
    with pytest.raises(EngineUnavailableError, match="has not returned"):
        answer(engine)
    fault.blocks.set()
    assert wait_until(lambda: engine.stats().state == "running")
    assert answer(engine).token_ids == expected


@pytest.mark.parametrize("engine_name", ["transformers", "generate"])
def test_a_raising_processor_fails_its_own_request_only(breakable, engine_name):
    engine, _ = breakable(engine_name)
    alone = answer(engine, max_new_tokens=30).token_ids

    def raises_at_the_third(input_ids, scores):
        if input_ids.shape[1] >= len(PROMPT) + 2:
            raise ZeroDivisionError("third token")
        return scores

    good = engine.submit(GenerationRequest(PROMPT, max_new_tokens=30, eos_token_ids=()))
    bad = engine.submit(GenerationRequest(PROMPT, eos_token_ids=(), logits_processors=(raises_at_the_third,)))
    assert good.result().token_ids == alone
    with pytest.raises(GenerationError) as error:
        bad.result()
    assert str(error.value) == "A logits processor of this request failed: ZeroDivisionError: third token"
    assert engine.stats().restarts == 0


class BrokenTokenizer(PreTrainedTokenizerFast):
    """Raises where it would decode what a test has said."""

    broken_id: int | None = None

    def decode(self, token_ids, *args, **kwargs):
        if self.broken_id in list(token_ids):
            raise ValueError("cannot decode this")
        return super().decode(token_ids, *args, **kwargs)


@pytest.mark.parametrize("engine_name", ENGINES)
def test_an_error_while_a_token_is_delivered_fails_that_request_only(breakable, engine_name):
    tokenizer = BrokenTokenizer(tokenizer_object=byte_tokenizer()._tokenizer)
    engine, _ = breakable(engine_name, tokenizer)
    other, broken = random_prompts(12, 20, seed=3)
    expected = answer(engine, other, max_new_tokens=30).token_ids
    tokenizer.broken_id = broken[-1]
    good = engine.submit(GenerationRequest(other, max_new_tokens=30, eos_token_ids=()))
    with pytest.raises((GenerationError, ValueError), match=r"cannot decode this"):
        answer(engine, broken)
    assert good.result().token_ids == expected
    assert engine.stats().open_requests == 0


@pytest.mark.parametrize("engine_name", ENGINES)
def test_the_deadline_frees_the_slot_also_when_nobody_waits_for_the_answer(breakable, engine_name):
    engine, _ = breakable(engine_name, max_requests_per_batch=1)
    streams = [
        engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=(), timeout_s=0.05))
        for _ in range(4)
    ]
    assert wait_until(lambda: engine.stats().open_requests == 0, seconds=5)
    assert any(isinstance(error_of(stream), RequestTimeoutError) for stream in streams)
    assert answer(engine).completion_tokens == 8


def error_of(stream):
    try:
        stream.result()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("engine_name", ENGINES)
def test_draining_takes_nothing_new_and_lets_what_is_open_finish(breakable, engine_name):
    engine, _ = breakable(engine_name)
    stream = engine.submit(LONG)
    drained = []
    thread = threading.Thread(target=lambda: drained.append(engine.drain(30.0)))
    thread.start()
    assert wait_until(lambda: engine.stats().state == "draining")
    with pytest.raises(EngineUnavailableError) as error:
        engine.submit(LONG)
    assert str(error.value) == "The engine is draining: it finishes what is open and takes nothing new."
    assert stream.result().completion_tokens == 240
    thread.join(30)
    assert drained == [True]


@pytest.mark.parametrize("engine_name", ["transformers", "openvino"])
def test_a_drain_ends_at_its_deadline_and_close_fails_the_rest(breakable, engine_name):
    engine, fault = breakable(engine_name)
    fault.blocks.clear()
    stream = engine.submit(LONG)
    assert engine.drain(0.1) is False
    fault.blocks.set()
    engine.close()
    with pytest.raises(EngineUnavailableError, match=r"The engine was closed\."):
        stream.result()


def test_a_cancelled_request_gives_its_row_to_the_next_within_a_step(breakable):
    engine, fault = breakable(max_requests_per_batch=1)
    running = engine.submit(LONG)
    waiting = engine.submit(GenerationRequest([9, 10, 11], max_new_tokens=1, eos_token_ids=()))
    next(iter(running))
    before = fault.tokens
    running.cancel()
    assert waiting.result().completion_tokens == 1
    assert fault.tokens - before <= 3 + 2  # its prompt; the step that ran, and one that had been prepared
    with pytest.raises(RequestCancelledError):
        running.result()


def test_answers_to_one_prompt_are_prefilled_once_and_each_draws_its_own(breakable):
    engine, fault = breakable(max_batch_tokens=256, max_requests_per_batch=8)
    prompt = random_prompts(150, seed=9)[0]
    before = fault.tokens
    requests = [
        GenerationRequest(prompt, max_new_tokens=4, temperature=1.5, seed=seed, eos_token_ids=()) for seed in range(8)
    ]
    answers = [stream.result().token_ids for stream in [engine.submit(request) for request in requests]]
    computed = fault.tokens - before
    assert len(set(answers)) > 1
    assert computed < 150 + 8 * (32 + 4)  # one whole prompt; of the others the last page at most
    assert answers == [engine.submit(request).result().token_ids for request in requests]


@pytest.mark.parametrize(
    ("engine_name", "end"),
    [
        ("transformers", "cancelled"),
        ("transformers", "out of time"),
        ("transformers", "raising"),
        ("openvino", "cancelled"),
        ("openvino", "out of time"),
    ],
)
def test_requests_that_wait_for_the_prompt_of_another_go_on_when_that_one_ends(breakable, engine_name, end):
    engine, fault = breakable(engine_name)
    prompt = random_prompts(100, seed=9)[0]
    expected = answer(engine, prompt).token_ids
    engine.close()
    engine, fault = breakable(engine_name)
    fault.blocks.clear()

    def fail(input_ids, scores):
        raise ZeroDivisionError

    first = engine.submit(
        GenerationRequest(
            prompt,
            eos_token_ids=(),
            timeout_s=0.1 if end == "out of time" else 60,
            logits_processors=(fail,) if end == "raising" else (),
        )
    )
    assert fault.entered.wait(10)
    others = [engine.submit(GenerationRequest(prompt, max_new_tokens=8, eos_token_ids=())) for _ in range(3)]
    if end == "cancelled":
        first.cancel()
    if end == "out of time":
        assert error_of(first) is not None
    fault.blocks.set()
    assert [stream.result().token_ids for stream in others] == [expected] * 3
    assert error_of(first) is not None


class UnreadableBias(dict):
    """Passes every check and raises when the request is started."""

    def values(self):
        raise ZeroDivisionError("unreadable")


@pytest.mark.parametrize("engine_name", ["transformers", "generate"])
def test_a_request_that_cannot_be_started_fails_alone_and_frees_its_slot(breakable, engine_name):
    engine, _ = breakable(engine_name)
    prompt = random_prompts(100, seed=9)[0]
    expected = answer(engine, prompt).token_ids
    for _ in range(2):
        with pytest.raises((GenerationError, ZeroDivisionError), match="unreadable"):
            answer(engine, prompt, logit_bias=UnreadableBias({9: 1.0}))
        assert engine.stats().open_requests == 0
        assert answer(engine, prompt).token_ids == expected


def test_one_that_cannot_be_started_leaves_those_that_waited_with_it_alone(breakable):
    engine, fault = breakable()
    prompt = random_prompts(100, seed=9)[0]
    expected = answer(engine, prompt).token_ids
    engine, fault = breakable()
    fault.blocks.clear()
    first = engine.submit(GenerationRequest(prompt, max_new_tokens=8, eos_token_ids=()))
    assert fault.entered.wait(10)
    others = [
        engine.submit(GenerationRequest(prompt, max_new_tokens=8, eos_token_ids=(), logit_bias=bias))
        for bias in ({}, UnreadableBias({9: 1.0}), {})
    ]
    fault.blocks.set()
    assert first.result().token_ids == expected
    assert [others[0].result().token_ids, others[2].result().token_ids] == [expected] * 2
    with pytest.raises(GenerationError, match=r"The request could not be started: ZeroDivisionError: unreadable"):
        others[1].result()
    assert engine.stats().open_requests == 0


@pytest.mark.parametrize(
    ("engine_name", "options"), [("transformers", {"no_repeat_ngram_size": 2}), ("openvino", {"min_new_tokens": 2})]
)
def test_whole_numbers_as_penalties_are_numbers_too(breakable, engine_name, options):
    engine, _ = breakable(engine_name)
    assert answer(engine, repetition_penalty=2, frequency_penalty=1, **options).completion_tokens == 8

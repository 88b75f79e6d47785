"""Thousands of requests of all kinds: each gets its own answer or its own error, and nothing is left of it."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from mlflow_llm_plugins.errors import (
    GenerationError,
    InvalidInputError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.generation import Constraint, EngineSettings, GenerationRequest, open_engine
from mlflow_llm_plugins.generation.engines import engine_row
from tests.e2e.serving import wait_for
from tests.generation.conftest import random_prompts, settings_for
from tests.models import MAX_LENGTH, VOCAB_SIZE, byte_tokenizer

pytestmark = pytest.mark.slow

REQUESTS = 5000
CALLERS = 24
SETTINGS = EngineSettings(max_requests_per_batch=8, max_queue_size=CALLERS, num_blocks=40, page_size=16)
PAGES_OF_32 = {"page_size": 32, "num_blocks": 20}  # the only size that OpenVINO has
SHARED = random_prompts(40, seed=11)[0]
WATCHED = GenerationRequest(random_prompts(12)[0], max_new_tokens=10, temperature=1.0, seed=5, eos_token_ids=())


FORM = Constraint("regex", "[a-z]{5}")
OUTSIDE = [-1, VOCAB_SIZE, VOCAB_SIZE + 1, 10**9, 2**40, 2**70]


def raising(input_ids, scores):
    raise ZeroDivisionError("on purpose")


def ordinary(random_, prompt):
    return GenerationRequest(
        prompt,
        max_new_tokens=random_.randint(1, 12),
        temperature=random_.choice([0.0, 0.7, 2.0]),
        top_p=random_.choice([None, 0.9]),
        top_k=random_.choice([None, 5]),
        repetition_penalty=random_.choice([1.0, 1.2]),
        stop=random_.choice([(), ("e",)]),
    )


# kind -> (how often, a request, the error that it must get)
KINDS = {
    "ordinary": (30, lambda r, p: ordinary(r, p), None),
    "watched": (10, lambda r, p: WATCHED, None),
    "twins": (10, lambda r, p: ordinary(r, [*SHARED, 9 + r.randrange(3)]), None),
    "constrained": (8, lambda r, p: GenerationRequest(p, constraint=FORM), None),
    "cancelled": (20, lambda r, p: GenerationRequest(p, max_new_tokens=100, eos_token_ids=()), RequestCancelledError),
    "late": (
        2,
        lambda r, p: GenerationRequest(p, max_new_tokens=150, eos_token_ids=(), timeout_s=0.001),
        RequestTimeoutError,
    ),
    "raising": (5, lambda r, p: GenerationRequest(p, logits_processors=(raising,)), GenerationError),
    "odd ends": (
        4,
        lambda r, p: GenerationRequest(
            p, **{r.choice(["eos_token_ids", "stop_token_ids"]): (r.choice(OUTSIDE),)}, min_new_tokens=r.choice([0, 2])
        ),
        InvalidInputError,
    ),
    "empty": (3, lambda r, p: GenerationRequest([]), InvalidInputError),
    "odd ids": (4, lambda r, p: GenerationRequest([*p, r.choice(OUTSIDE)]), InvalidInputError),
    "too long": (4, lambda r, p: GenerationRequest([9] * r.choice([MAX_LENGTH, 10**4])), PromptTooLongError),
    "too much": (4, lambda r, p: GenerationRequest(p, max_new_tokens=10**6), PromptTooLongError),
}


@pytest.fixture(scope="module")
def others():
    """The threads of this process that are none of the engine's: other tests' engines may be open."""
    return set(threading.enumerate())


@pytest.fixture(scope="module", params=["transformers", "generate", "openvino"])
def engine(request, others, loadable):
    settings = SETTINGS.model_copy(update=PAGES_OF_32) if request.param == "openvino" else SETTINGS
    model = loadable("llama", request.param)
    opened = open_engine(model, byte_tokenizer(), settings_for(request.param, settings), request.param)
    yield opened
    opened.close()


@pytest.fixture
def without_logs():
    """pytest keeps every record with its traceback, and with that what the frames hold."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("without_logs")
def test_of_thousands_of_mixed_requests_each_gets_its_own_end_and_nothing_is_left(engine, others):
    expected = engine.submit(WATCHED).result()
    engine.submit(GenerationRequest(SHARED, constraint=FORM)).result()  # few may wait for a form that is new
    run(engine, REQUESTS // 5, seed=1)  # warm-up
    memory, threads = resident_bytes(), len(lasting_threads(others))
    ends = run(engine, REQUESTS, seed=2)
    assert sum(ends.values()) == REQUESTS
    wrong = {end: count for end, count in ends.items() if not end[1]}
    assert wrong == {}
    assert engine.stats().open_requests == 0
    assert engine.stats().restarts == 0
    assert len(lasting_threads(others)) == threads
    wait_for(lambda: len(idle_workers(others)) <= 1)
    assert resident_bytes() <= memory * 1.05
    assert engine.submit(WATCHED).result().token_ids == expected.token_ids
    longest = GenerationRequest([9] * 100, max_new_tokens=MAX_LENGTH - 100, eos_token_ids=())
    rows = [engine.submit(longest) for _ in range(8)]  # every slot and page can be had again
    assert {len(stream.result().token_ids) for stream in rows} == {MAX_LENGTH - 100}


def resident_bytes():
    """Of this process and its children, one of which may be the engine's."""
    process = psutil.Process()
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def idle_workers(others):
    """One thread has them while another process wants the CPUs, see `spin_threads`."""
    return {each for each in threading.enumerate() if each.name == "llm-engine-idle-workers"} - others


def lasting_threads(others):
    """All the others of the engine."""
    return set(threading.enumerate()) - idle_workers(others) - others


def run(engine, count, seed):
    """(kind, whether it ended as it must) -> how often."""
    expected = engine.submit(WATCHED).result()
    names = random.Random(seed).choices(list(KINDS), [weight for weight, _, _ in KINDS.values()], k=count)
    with ThreadPoolExecutor(CALLERS - 1) as callers:
        return Counter(callers.map(lambda job: one(engine, *job, expected), enumerate(names)))


def one(engine, number, name, expected):
    random_ = random.Random(number)
    refused = engine_row(engine.stats().engine).limits.refused
    prompt = random_prompts(random_.randint(1, 60), seed=number)[0]
    _, make, must_raise = KINDS[name]
    if name == "raising" and "logits_processors" in refused:
        must_raise = UnsupportedFeatureError
    try:
        stream = engine.submit(make(random_, prompt))
        if name == "cancelled":
            for _, _ in zip(range(random_.randrange(8)), stream, strict=False):
                pass
            stream.cancel()
        output = stream.result()
    except QueueFullError:
        raise AssertionError("more requests are open than callers wait") from None
    except Exception as error:
        return name, must_raise is not None and isinstance(error, must_raise)
    return name, must_raise is None and (name != "watched" or output.token_ids == expected.token_ids)

"""Events that are handed over instead of fetched, and what an output says of its making."""

from __future__ import annotations

import threading

import pytest

from mlflow_llm_plugins.errors import RequestCancelledError
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.call_scope import CallScope, in_current_scope
from tests.generation.conftest import SMALL, random_prompts
from tests.models import byte_tokenizer, random_model

WAIT_S = 30


@pytest.fixture(scope="module", params=["transformers", "generate", "openvino"])
def engine(request, loadable):
    opened = open_engine(loadable("llama", request.param), byte_tokenizer(), SMALL, request.param)
    yield opened
    opened.close()


class Listener:
    """Remembers what it is told."""

    def __init__(self):
        self.events, self.ended = [], threading.Event()

    def __call__(self, event):
        self.events.append(event)
        if event is None:
            self.ended.set()


def request(tokens=12, prompt=None, **options):
    return GenerationRequest(prompt or random_prompts(9)[0], max_new_tokens=tokens, eos_token_ids=(), **options)


def test_a_listener_is_told_every_token_and_then_the_end(engine):
    stream, listener = engine.submit(request()), Listener()
    stream.listen(listener)
    assert listener.ended.wait(WAIT_S)
    output = stream.result()
    assert [event.token_id for event in listener.events[:-1]] == list(output.token_ids)
    assert "".join(event.text for event in listener.events[:-1]) == output.text
    assert listener.events[-1] is None


def test_a_listener_that_comes_late_is_told_what_it_missed(engine):
    stream, listener = engine.submit(request()), Listener()
    output = stream.result()
    stream.listen(listener)
    assert listener.ended.wait(WAIT_S)
    assert [event.token_id for event in listener.events[:-1]] == list(output.token_ids)


def test_the_end_of_a_failed_answer_is_told_too(engine):
    stream, listener, done = engine.submit(request(200)), Listener(), threading.Event()
    stream.add_done_callback(done.set)
    stream.listen(listener)
    stream.cancel()
    assert listener.ended.wait(WAIT_S)
    assert done.wait(WAIT_S)
    with pytest.raises(RequestCancelledError):
        stream.result()


def test_a_callback_for_an_answer_that_has_ended_is_called_at_once(engine):
    stream, done = engine.submit(request()), threading.Event()
    stream.result()
    stream.add_done_callback(done.set)
    assert done.is_set()


def test_an_output_says_when_each_token_came(engine):
    output = engine.submit(request(8)).result()
    assert len(output.token_times) == 8
    assert list(output.token_times) == sorted(output.token_times)
    assert output.token_times[0] > 0


def test_an_output_says_how_much_of_its_prompt_was_in_the_cache():
    settings = SMALL.model_copy(update={"page_size": 4})
    opened = open_engine(random_model("llama"), byte_tokenizer(), settings)
    try:
        prompt = random_prompts(30, seed=11)[0]
        first, second = (opened.submit(request(6, prompt)).result() for _ in range(2))
        other = opened.submit(request(6, random_prompts(30, seed=12)[0])).result()
    finally:
        opened.close()
    assert (first.cached_tokens, second.cached_tokens, other.cached_tokens) == (0, 28, 0)  # whole pages of 4
    assert first.token_ids == second.token_ids


def test_stats_tell_running_requests_and_what_they_take_of_the_cache(engine):
    stream = engine.submit(request(200))
    events = iter(stream)
    for _ in range(3):
        next(events)
    stats = engine.stats()
    stream.cancel()
    assert stats.running_requests == stats.open_requests == 1
    assert stats.cache_used_tokens >= 9 + 3
    with pytest.raises(RequestCancelledError):
        stream.result()
    assert engine.stats().running_requests == 0


def test_a_scope_ends_what_was_opened_in_it_and_nothing_else(engine):
    scope, outside = CallScope(), engine.submit(request(20))
    inside = scope.run(lambda: in_current_scope(engine.submit(request(200))))
    assert scope.cancel() == 1
    with pytest.raises(RequestCancelledError):
        inside.result()
    assert len(outside.result().token_ids) == 20
    in_current_scope(outside)


def test_what_is_opened_in_a_scope_that_has_ended_ends_at_once(engine):
    scope = CallScope()
    scope.cancel()
    stream = scope.run(lambda: in_current_scope(engine.submit(request(200))))
    with pytest.raises(RequestCancelledError):
        stream.result()

"""A runner that dies and cannot be started again, at once or at all."""

from __future__ import annotations

import threading
import time

import pytest

from mlflow_llm_plugins.errors import EngineUnavailableError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.generation.admission import Admission
from mlflow_llm_plugins.generation.features import FeatureCheck, Limits
from mlflow_llm_plugins.generation.open_requests import OpenRequests
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler
from mlflow_llm_plugins.generation.stream import TokenStream
from mlflow_llm_plugins.generation.watchdog import Watchdog
from tests.models import VOCAB_SIZE, byte_tokenizer


class Mortal:
    """A runner whose thread dies, and that finds no memory for another one in its first tries."""

    name = "transformers"
    what = "generation thread"
    cache_tokens = None
    steps = 0
    owes_a_step = False

    def __init__(self, failing_tries):
        self.disturbed = threading.Event()
        self.alive = True
        self.tries = 0
        self.failing_tries = failing_tries

    def start(self, stream):
        pass

    def release(self, stream):
        pass

    def is_alive(self):
        return self.alive

    def death(self):
        return "OSError: gone"

    def abandon_step(self):
        pass

    def restart(self):
        self.tries += 1
        if self.tries <= self.failing_tries:
            raise RuntimeError("can't start new thread")
        self.alive = True

    def begin_close(self):
        pass

    def close(self):
        pass


@pytest.fixture
def stream():
    tokenizer = byte_tokenizer()
    admission = Admission(
        vocab_size=VOCAB_SIZE,
        max_context_length=64,
        cache_tokens=None,
        max_new_tokens=8,
        eos_token_ids=frozenset(),
        timeout_s=60.0,
        constraints=ConstraintCompiler(tokenizer, VOCAB_SIZE),
        features=FeatureCheck("transformers", Limits()),
    )
    return TokenStream(admission.admit(GenerationRequest([5, 6])), tokenizer, on_end=lambda _: None)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_a_thread_that_cannot_be_started_again_fails_what_is_open_and_is_said_to_be_dead(stream):
    runner, requests = Mortal(failing_tries=100), OpenRequests(4)
    watchdog = Watchdog(runner, requests, step_timeout_s=60.0, max_restarts=2)
    try:
        requests.add(stream)
        runner.alive = False
        watchdog.look()
        with pytest.raises(EngineUnavailableError, match=r"The generation thread died: OSError: gone\."):
            stream.result()
        wait_until(lambda: runner.tries > 0 and not watchdog.is_restarting)
        assert watchdog.failure() == (
            "The generation thread died: OSError: gone. It cannot be started again: can't start new thread"
        )
        for _ in range(3):
            watchdog.look()
            threading.Event().wait(0.05)
        assert (runner.tries, watchdog.restarts) == (2, 2)
    finally:
        watchdog.close()


def test_what_cannot_be_started_at_once_is_tried_again_and_requests_are_refused_meanwhile(stream):
    runner = Mortal(failing_tries=1)
    watchdog = Watchdog(runner, OpenRequests(4), step_timeout_s=60.0, max_restarts=3)
    try:
        runner.alive = False
        watchdog.look()
        wait_until(lambda: runner.tries == 1)
        assert watchdog.is_restarting
        assert watchdog.failure() == (
            "The generation thread died: OSError: gone. It is being started again; try again."
        )
        wait_until(lambda: watchdog.failure() is None)
        assert not watchdog.is_restarting
        assert (runner.tries, watchdog.restarts) == (2, 2)
    finally:
        watchdog.close()


class SlowToStart(Mortal):
    """A start of it lasts until it is given up."""

    def __init__(self):
        super().__init__(failing_tries=0)
        self.starting, self.given_up = threading.Event(), threading.Event()

    def restart(self):
        self.starting.set()
        assert self.given_up.wait(60)
        raise EngineUnavailableError("The engine was closed.")

    def begin_close(self):
        self.given_up.set()


@pytest.mark.parametrize("ending", ["a start", "a pause"])
def test_closing_waits_neither_for_a_start_nor_for_the_pause_after_one_that_failed(ending):
    runner = SlowToStart() if ending == "a start" else Mortal(failing_tries=100)
    watchdog = Watchdog(runner, OpenRequests(4), step_timeout_s=60.0, max_restarts=10)
    runner.alive = False
    watchdog.look()
    wait_until(lambda: runner.tries == 2 or (ending == "a start" and runner.starting.is_set()))
    tries, started = runner.tries, time.monotonic()
    watchdog.close()
    assert time.monotonic() - started < 0.5  # the second pause is 1 s
    assert runner.tries == tries

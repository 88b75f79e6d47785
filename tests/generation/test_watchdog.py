"""A generation thread that cannot be started again."""

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


class Unrestartable:
    """A runner whose thread has died, and that finds no memory for another one."""

    name = "transformers"
    cache_tokens = None
    steps = 0

    def __init__(self):
        self.disturbed = threading.Event()
        self.alive = True
        self.tries = 0

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
        raise RuntimeError("can't start new thread")

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


def test_a_thread_that_cannot_be_started_again_fails_what_is_open_and_is_said_to_be_dead(stream):
    runner, requests = Unrestartable(), OpenRequests(4)
    watchdog = Watchdog(runner, requests, step_timeout_s=60.0, max_restarts=3)
    try:
        requests.add(stream)
        runner.alive = False
        watchdog.look()
        with pytest.raises(EngineUnavailableError, match=r"The generation thread died: OSError: gone\."):
            stream.result()
        deadline = time.monotonic() + 10
        while watchdog.is_restarting or runner.tries == 0:
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        assert watchdog.failure() == (
            "The generation thread died: OSError: gone. It cannot be started again: can't start new thread"
        )
        for _ in range(3):
            watchdog.look()
            threading.Event().wait(0.05)
        assert runner.tries == 1
    finally:
        watchdog.close()

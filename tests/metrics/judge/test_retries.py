"""Tries end with the call that they are made for."""

from __future__ import annotations

import threading

import pytest

from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError, with_retries


def test_a_stop_before_the_first_try_leaves_it_out():
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(UnansweredError, match="the judge is no longer asked"):
        with_retries(lambda: pytest.fail("it was asked"), lambda _: 60, stopping)


def test_a_stop_in_a_pause_ends_the_pause_and_leaves_the_next_try_out():
    stopping = threading.Event()
    tries = []

    def busy():
        tries.append(1)
        threading.Timer(0.05, stopping.set).start()
        raise UnansweredError("busy", status=429, pause_s=60)

    with pytest.raises(UnansweredError, match="the judge is no longer asked"):
        with_retries(busy, lambda _: 600, stopping)
    assert len(tries) == 1

"""Requests with one prompt: who waits for whose prefill, and that nobody waits for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlflow_llm_plugins.generation.shared_prefills import SharedPrefills

PAGE = 4
LONG = list(range(PAGE + 1))


def stream(prompt=LONG, received=0, ended=False):
    """What is looked at of a token stream."""
    made = SimpleNamespace(request=SimpleNamespace(prompt_ids=prompt), received=received, ended=ended)
    return Hashable(made)


class Hashable:
    """A stream, which is equal to itself only."""

    def __init__(self, parts):
        self.__dict__.update(parts.__dict__)
        self.failure = None

    def fail(self, error):
        self.failure, self.ended = error, True


@pytest.fixture
def started():
    return []


@pytest.fixture
def prefills(started):
    return SharedPrefills(started.append, PAGE)


def test_a_second_request_with_a_prompt_waits_for_the_first_one_s_token(prefills, started):
    first, second, other = stream(), stream(), stream([7] * 9)
    for each in (first, second, other):
        prefills.start(each)
    assert started == [first, other]
    first.received = 1
    prefills.settle(first)
    assert started == [first, other, second]


def test_prompts_that_fill_no_page_wait_for_nobody(prefills, started):
    both = [stream([1] * PAGE), stream([1] * PAGE)]
    for each in both:
        prefills.start(each)
    assert started == both


def test_nobody_waits_for_a_request_that_had_ended_before_it_was_started(prefills, started):
    gone, later = stream(ended=True), stream()
    prefills.start(gone)
    prefills.start(later)
    assert started == [gone, later]


def test_those_that_ended_while_they_waited_are_not_started(prefills, started):
    first, gone, last = stream(), stream(), stream()
    for each in (first, gone, last):
        prefills.start(each)
    gone.ended = first.ended = True
    prefills.settle(first)
    assert started == [first, last]


def test_one_that_cannot_be_started_fails_alone(started):
    def start(each):
        if each is broken:
            raise RuntimeError("no")
        started.append(each)

    prefills = SharedPrefills(start, PAGE)
    first, broken, last = stream(), stream(), stream()
    for each in (first, broken, last):
        prefills.start(each)
    first.received = 1
    prefills.settle(first)
    assert started == [first, last]
    assert "could not be started: RuntimeError: no" in str(broken.failure)

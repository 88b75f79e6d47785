"""Threads spin while they have the CPUs for themselves, and sleep beside a neighbour."""

from __future__ import annotations

import pytest
import torch

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.cpu.openmp import can_use_threads
from mlflow_llm_plugins.generation.cpu.spinning import Now, Spinning
from tests.generation.conftest import SMALL, plain_greedy, random_prompts
from tests.models import byte_tokenizer, random_model

STEP_S = 0.02


class Workers:
    """Notes what it is told."""

    sleep = True

    def start(self):
        self.sleep = True

    def stop(self):
        self.sleep = False


class Machine:
    """Steps on a clock of its own, beside a neighbour that takes some of the CPUs."""

    def __init__(self, threads=4):
        self.threads = threads
        self.wall = self.cpu = 0.0
        self.workers = Workers()
        self.spinning = Spinning(self.workers, threads, lambda: Now(self.wall, self.cpu))

    def run(self, seconds, taken=0.0):
        """Steps for so long; the share of them that spun."""
        spun, steps = 0, round(seconds / STEP_S)
        for _ in range(steps):
            spins = self.spinning.before_step()
            assert spins != self.workers.sleep
            spun += spins
            self.wall += STEP_S
            self.cpu += STEP_S * (self.threads - taken)
            self.spinning.after_step()
        return spun / steps

    def rest(self, seconds):
        """No step runs, and nothing uses a CPU."""
        self.wall += seconds


@pytest.fixture
def machine():
    machine = Machine()
    machine.spinning.begin()
    return machine


def test_threads_sleep_until_they_are_told_to_begin():
    machine = Machine()
    assert machine.run(100.0) == 0.0
    machine.spinning.begin()
    assert machine.run(10.0) == 1.0


@pytest.mark.parametrize("taken", [0.0, 0.1, 0.2])
def test_threads_spin_as_long_as_others_take_little(machine, taken):
    assert machine.run(100.0, taken) == 1.0


def test_many_threads_may_take_a_moment_to_wake():
    machine = Machine(threads=64)
    machine.spinning.begin()
    assert machine.run(10.0, taken=2.0) == 1.0
    assert machine.run(10.0, taken=4.0) < 0.1


@pytest.mark.parametrize("taken", [0.3, 1.0, 3.0])
def test_threads_soon_sleep_beside_a_neighbour_and_try_ever_more_seldom(machine, taken):
    assert machine.run(2.0, taken) < 0.15
    assert machine.run(600.0, taken) < 0.01


def test_one_short_disturbance_changes_nothing(machine):
    machine.run(1.0)
    machine.run(0.04, taken=1.0)
    assert machine.run(1.0) == 1.0


def test_threads_spin_again_when_the_neighbour_has_gone(machine):
    machine.run(60.0, taken=1.0)
    machine.run(60.0)
    assert machine.run(10.0) == 1.0


def test_a_neighbour_that_comes_after_a_calm_time_is_a_new_one(machine):
    machine.run(300.0, taken=1.0)
    machine.run(200.0)
    machine.run(1.0, taken=1.0)
    machine.run(3.0)
    assert machine.run(1.0) == 1.0


def test_time_without_steps_is_not_time_that_others_took(machine):
    for _ in range(50):
        machine.run(0.06)
        machine.rest(5.0)
    assert machine.run(1.0) == 1.0


@pytest.mark.skipif(not can_use_threads(), reason="this torch does not use libgomp")
@pytest.mark.parametrize("spin", [True, False, None])
@pytest.mark.parametrize("engine", ["transformers", "generate"])
def test_the_answers_do_not_depend_on_what_threads_do(spin, engine):
    model, reference = random_model("llama"), random_model("llama")
    before = torch.get_num_threads()
    opened = open_engine(
        model, byte_tokenizer(), SMALL.model_copy(update={"spin_threads": spin, "num_threads": 2}), engine=engine
    )
    prompts = random_prompts(1, 3, 50, seed=3)
    try:
        streams = [opened.submit(GenerationRequest(p, max_new_tokens=12, eos_token_ids=())) for p in prompts]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert list(stream.result().token_ids) == plain_greedy(reference, prompt, 12)
    finally:
        opened.close()
        torch.set_num_threads(before)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks

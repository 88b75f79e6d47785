"""Worker threads of libgomp: who has them, and that none is left."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import torch

from mlflow_llm_plugins.generation import open_engine
from mlflow_llm_plugins.generation.cpu.openmp import IdleWorkers, can_use_threads, release_workers, use_threads
from tests.generation.conftest import SMALL
from tests.models import byte_tokenizer, random_model

pytestmark = pytest.mark.skipif(not can_use_threads(), reason="this torch does not use libgomp")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_a_thread(act):
    results = []
    thread = threading.Thread(target=lambda: results.append(act()))
    thread.start()
    thread.join(30)
    return results[0]


def work():
    torch.zeros(1 << 20).add_(1)


def threads_become(count, seconds=10.0):
    """Whether the process has so many threads soon: those that end take a moment."""
    deadline = time.monotonic() + seconds
    while psutil.Process().num_threads() != count and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    return psutil.Process().num_threads() == count


def settled():
    """How many threads the process has when no more of them end."""
    count = -1
    while count != (count := psutil.Process().num_threads()):
        threading.Event().wait(0.3)
    return count


@pytest.fixture
def threads_before(two_threads):
    """What the process has when those of earlier tests are gone."""
    work()
    release_workers()
    return settled()


def test_released_workers_are_gone_and_come_back_with_the_next_operation(threads_before):
    for _ in range(2):
        work()
        assert threads_become(threads_before + 1)
        release_workers()
        assert threads_become(threads_before)


def test_a_thread_may_use_fewer_than_the_others(threads_before):
    def run():
        use_threads(1)
        work()
        return torch.get_num_threads(), psutil.Process().num_threads()

    assert in_a_thread(run) == (1, threads_before + 1)  # itself alone
    assert torch.get_num_threads() == 2


def test_idle_workers_come_and_go_and_outnumber_the_cpus(threads_before):
    idle = IdleWorkers()
    idle.stop()
    for _ in range(2):
        idle.start()
        idle.start()
        assert threads_become(threads_before + max(2, len(psutil.Process().cpu_affinity())))
        idle.stop()
        assert threads_become(threads_before)
    idle.start()
    idle.close()
    assert threads_become(threads_before)
    idle.start()
    assert settled() == threads_before


def test_where_no_thread_can_be_started_workers_are_left_alone(monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    idle = IdleWorkers()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        idle.start()
    assert "Worker threads cannot be made to sleep: can't start new thread." in caplog.text
    idle.start()
    idle.close()


@pytest.mark.parametrize("spin", [True, False, None])
def test_an_engine_and_scoring_from_many_threads_leave_no_workers_behind(spin):
    settings = SMALL.model_copy(update={"spin_threads": spin})
    counts = []
    for _ in range(3):  # the first time other libraries start threads of their own, which stay
        engine = open_engine(random_model("llama"), byte_tokenizer(), settings)
        in_a_thread(lambda engine=engine: engine.choose(["one", "two"], ["yes", "no"]))
        while_open = settled()
        for _ in range(5):
            in_a_thread(lambda engine=engine: engine.choose(["one", "two"], ["yes", "no"]))
        assert threads_become(while_open)
        engine.close()
        counts.append(settled())
    assert counts[1] == counts[2]

"""Whatever ends the child, the parent or a thread of it: requests end in time, and nothing is left running."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from mlflow_llm_plugins.errors import CheckpointError, EngineUnavailableError, HardwareError, LLMError
from mlflow_llm_plugins.generation import EngineSettings, GenerationRequest, open_engine
from tests.generation.conftest import SMALL, random_prompts, settings_for
from tests.generation.faults import ChildFault
from tests.models import byte_tokenizer

PROMPT = random_prompts(9)[0]
SETTINGS = settings_for("openvino", SMALL)
FAILS_WITHIN_S = 1.0
READY_WITHIN_S = 30.0  # on a busy machine


@pytest.fixture
def folder(ir_folder):
    return ir_folder("llama")


@pytest.fixture
def opened(folder):
    """A function: settings -> (engine, what breaks its child), closed at the end."""
    engines = []

    def open_it(**settings):
        fault = ChildFault()
        engines.append(open_engine(folder, byte_tokenizer(), SETTINGS.model_copy(update=settings), "openvino"))
        return engines[-1], fault

    yield open_it
    for engine in engines:
        engine.close()


def answer(engine, prompt=PROMPT, tokens=8):
    return engine.submit(GenerationRequest(prompt, max_new_tokens=tokens, eos_token_ids=())).result().token_ids


def wait_until(condition, seconds=READY_WITHIN_S):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def has_ended(pid):
    """Whether no such process runs; one that nobody reaps, because its parent is gone, counts as ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_killed_amid_sixteen_streams_fails_each_in_time_and_the_next_request_is_served(opened):
    engine, fault = opened(max_requests_per_batch=16)
    expected = answer(engine)
    pid = fault.child.pid
    prompts = random_prompts(*range(5, 85, 5))
    streams = [engine.submit(GenerationRequest(p, max_new_tokens=150, eos_token_ids=())) for p in prompts]
    for stream in streams:
        next(iter(stream))
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    for stream in streams:
        with pytest.raises(EngineUnavailableError, match=r"process died: it was ended by signal 9 \(SIGKILL\)"):
            stream.result()
    assert time.monotonic() - killed < FAILS_WITHIN_S
    assert not psutil.pid_exists(pid)  # nor a zombie
    assert wait_until(lambda: engine.stats().state == "running")
    assert answer(engine) == expected
    assert (engine.stats().restarts, engine.stats().open_requests) == (1, 0)


def test_requests_are_refused_with_the_reason_while_a_fresh_child_loads_and_served_after(opened):
    engine, fault = opened()
    stream = engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=()))
    os.kill(fault.child.pid, signal.SIGKILL)
    with pytest.raises(EngineUnavailableError):
        stream.result()
    with pytest.raises(EngineUnavailableError, match=r"It is being started again; try again\."):
        engine.submit(GenerationRequest(PROMPT))
    assert wait_until(lambda: engine.stats().state == "running")
    assert len(answer(engine)) == 8


def test_a_child_that_dies_while_idle_is_replaced_before_anybody_asks(opened):
    engine, fault = opened()
    expected = answer(engine)
    os.kill(fault.child.pid, signal.SIGKILL)
    assert wait_until(lambda: engine.stats().restarts == 1 and engine.stats().state == "running")
    assert answer(engine) == expected


def test_a_step_that_does_not_return_is_noticed_though_each_request_ends_sooner(opened):
    engine, fault = opened(step_timeout_s=1.5, request_timeout_s=0.3)
    answer(engine, tokens=1)
    pid = fault.child.pid
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + READY_WITHIN_S
    while not has_ended(pid):
        assert time.monotonic() < deadline, engine.stats()
        with pytest.raises(LLMError):
            answer(engine)
        threading.Event().wait(0.3)  # nothing is open meanwhile
    assert wait_until(lambda: engine.stats().state == "running")
    assert len(answer(engine, tokens=1)) == 1


def test_an_engine_that_has_nothing_to_do_is_not_taken_for_one_that_stands_still(opened):
    engine, fault = opened(step_timeout_s=0.4)
    pid = fault.child.pid
    for _ in range(3):
        engine.submit(GenerationRequest(PROMPT, max_new_tokens=200, eos_token_ids=())).cancel()
        threading.Event().wait(0.7)
    assert len(answer(engine)) == 8
    assert (engine.stats().restarts, fault.child.pid) == (0, pid)


def test_a_step_that_does_not_return_is_ended_with_its_child_and_the_next_request_is_served(opened):
    engine, fault = opened(step_timeout_s=0.5)
    expected = answer(engine)
    stopped = fault.child.pid
    streams = [engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=())) for _ in range(3)]
    fault.blocks.clear()
    for stream in streams:
        with pytest.raises(EngineUnavailableError) as error:
            stream.result()
        assert str(error.value) == "A generation step has not returned within step_timeout_s=0.5 s."
    assert wait_until(lambda: engine.stats().state == "running" and engine.stats().restarts == 1)
    assert has_ended(stopped)
    assert answer(engine) == expected


def test_cancelling_and_closing_do_not_wait_for_a_child_that_stands_still(opened):
    engine, fault = opened()
    streams = [engine.submit(GenerationRequest(PROMPT, max_new_tokens=240, eos_token_ids=())) for _ in range(3)]
    fault.blocks.clear()
    started = time.monotonic()
    streams[0].cancel()
    engine.close()
    assert time.monotonic() - started < 5
    with pytest.raises(EngineUnavailableError, match=r"The engine was closed\."):
        streams[1].result()


def test_many_large_prompts_do_not_block_callers_beside_a_child_that_stands_still(opened):
    engine, fault = opened()
    fault.blocks.clear()
    started = time.monotonic()
    requests = [GenerationRequest(prompt, max_new_tokens=5) for prompt in random_prompts(*[240] * 200)]
    streams = [engine.submit(request) for request in requests]
    for stream in streams:
        stream.cancel()
    assert time.monotonic() - started < 5


def test_a_signal_to_the_whole_group_leaves_the_answer_whole(opened):
    engine, fault = opened()
    stream = engine.submit(GenerationRequest(PROMPT, max_new_tokens=200, eos_token_ids=()))
    next(iter(stream))
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(fault.child.pid, number)
    assert stream.result().completion_tokens == 200
    assert engine.stats().restarts == 0


def test_opening_and_closing_many_times_leaves_no_thread_process_or_descriptor(opened):
    opened()[0].close()
    process = psutil.Process()
    before = (threading.active_count(), process.num_fds(), len(process.children()))
    for _ in range(3):
        engine, _ = opened()
        answer(engine)
        engine.close()
    assert (threading.active_count(), process.num_fds(), len(process.children())) == before


def test_an_engine_that_nobody_holds_ends_its_child(folder):
    fault = ChildFault()
    engine = open_engine(folder, byte_tokenizer(), SETTINGS, "openvino")
    answer(engine)
    pid = fault.child.pid
    del engine
    gc.collect()
    assert wait_until(lambda: not psutil.pid_exists(pid), seconds=10)


def test_an_engine_lives_longer_than_the_thread_that_opened_it(opened):
    results = []
    thread = threading.Thread(target=lambda: results.append(opened()))
    thread.start()
    thread.join()
    threading.Event().wait(0.3)
    engine, _ = results[0]
    assert len(answer(engine)) == 8
    assert engine.stats().restarts == 0


def test_a_fork_of_the_parent_that_exits_leaves_the_engine_alone(opened):
    engine, fault = opened()
    expected = answer(engine)
    pid = fault.child.pid
    forked = os.fork()
    if forked == 0:
        engine.close()
        os._exit(0)
    assert wait_until(lambda: os.waitpid(forked, os.WNOHANG)[0] == forked)
    assert answer(engine) == expected
    assert fault.child.pid == pid


SCRIPT = """
import sys
from mlflow_llm_plugins.generation import *
from tests.models import byte_tokenizer
import psutil
engine = open_engine(sys.argv[1], byte_tokenizer(), EngineSettings(), "openvino")
stream = engine.submit(GenerationRequest([9, 10], max_new_tokens=250, eos_token_ids=()))
next(iter(stream))
print(*(process.pid for process in psutil.Process().children()), flush=True)
"""


@pytest.mark.parametrize(
    ("last_line", "ending"),
    [
        ("import time; time.sleep(60)", "killed"),
        ("", "exits"),
        ("import os; os._exit(3)", "exits"),
        ("raise SystemExit(1)", "exits"),
    ],
    ids=["killed", "ends", "leaves at once", "fails"],
)
def test_no_child_outlives_its_parent(folder, last_line, ending):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", SCRIPT + last_line, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        if ending == "killed":
            parent.kill()
        parent.wait(30)
    assert pids
    assert wait_until(lambda: all(has_ended(pid) for pid in pids), seconds=10)


def test_a_model_that_openvino_cannot_read_is_told_at_opening(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = (tmp_path / "openvino_model.bin").read_bytes()
    (tmp_path / "openvino_model.bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"^OpenVINO cannot run the model: "):
        open_engine(tmp_path, byte_tokenizer(), SETTINGS, "openvino")
    assert not [each for each in psutil.Process().children() if "child_main" in " ".join(each.cmdline())]


def test_a_child_that_dies_while_it_loads_is_told_at_opening(folder):
    fault, errors = ChildFault(), []

    def open_it():
        try:
            open_engine(folder, byte_tokenizer(), SETTINGS, "openvino").close()
        except HardwareError as error:
            errors.append(str(error))

    thread = threading.Thread(target=open_it)
    thread.start()
    os.kill(fault.child.pid, signal.SIGKILL)
    thread.join(READY_WITHIN_S)
    assert errors == [
        "The process that loads the model for OpenVINO came to an early end: it was ended by signal 9 (SIGKILL). Its "
        "log has the reason; a SIGKILL is the system's, for want of memory: free some, or load the model quantized."
    ]


def test_a_child_that_cannot_be_loaded_again_leaves_an_engine_that_says_so(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fault = ChildFault()
    engine = open_engine(tmp_path, byte_tokenizer(), EngineSettings(max_restarts=2), "openvino")
    try:
        answer(engine)
        (tmp_path / "openvino_model.xml").write_text("<nothing/>")
        os.kill(fault.child.pid, signal.SIGKILL)
        assert wait_until(lambda: engine.stats().state == "dead")
        assert engine.stats().restarts == 2
        with pytest.raises(EngineUnavailableError, match=r"It cannot be started again: OpenVINO cannot run the model"):
            engine.submit(GenerationRequest(PROMPT))
        assert engine.stats().open_requests == 0
    finally:
        engine.close()


def test_a_model_that_is_away_for_a_moment_is_loaded_when_it_is_back(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    fault, away = ChildFault(), tmp_path / "away"
    engine = open_engine(tmp_path, byte_tokenizer(), SETTINGS, "openvino")
    try:
        expected = answer(engine)
        (tmp_path / "openvino_model.bin").rename(away)
        os.kill(fault.child.pid, signal.SIGKILL)
        assert wait_until(lambda: engine.stats().restarts == 2)
        away.rename(tmp_path / "openvino_model.bin")
        assert wait_until(lambda: engine.stats().state == "running")
        assert answer(engine) == expected
    finally:
        engine.close()


def test_closing_does_not_wait_for_a_fresh_child_that_does_not_get_ready(opened):
    engine, fault = opened()
    first = fault.child.pid
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: has_ended(first) and fault.child.pid != first)
    loading = fault.child.pid
    fault.blocks.clear()
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 3
    assert has_ended(loading)
    assert engine.stats().state == "closed"

"""A child process answers, says how it ended, and leaves nothing behind, whoever ends first."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess

TARGETS = "tests.generation.openvino.child_targets"
WAIT_S = 30.0


@pytest.fixture
def start():
    """A function: target, arguments -> a child that has been started, closed at the end."""
    children = []

    def start_child(target, arguments=None):
        children.append(ChildProcess(f"{TARGETS}:{target}", arguments, "test-child"))
        children[-1].start()
        return children[-1]

    yield start_child
    for child in children:
        child.close(WAIT_S)


def pid_of(child):
    """Of a child of this process that has answered."""
    return next(
        process.pid for process in psutil.Process().children() if any("child_main" in a for a in process.cmdline())
    )


def gone(pid):
    """Whether no such process runs; an orphan that nobody reaps counts as gone."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        threading.Event().wait(0.02)
    return False


def run_script(script, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *script], env=environment, text=True, **pipes, **options)


def test_messages_of_any_size_go_both_ways_in_order(start):
    child = start("echo", {"a": 1})
    messages = [b"x" * size for size in (1, 10, 10**7, 5)]
    for message in messages:
        child.send(message)
    assert [child.receive(WAIT_S) for _ in messages] == [({"a": 1}, message) for message in messages]
    assert child.is_alive()
    assert child.ending() == ""


def test_a_message_that_does_not_come_in_time_is_missed_and_the_child_lives(start):
    child = start("echo")
    with pytest.raises(TimeoutError, match=r"test-child sent nothing within 0\.05 s\."):
        child.receive(0.05)
    child.send(1)
    assert child.receive(WAIT_S) == (None, 1)


def test_sending_to_a_child_that_does_not_read_never_waits(start):
    child = start("say_pid_and_compute")
    child.receive(WAIT_S)
    started = time.monotonic()
    for _ in range(20):
        child.send(b"x" * 10**6)
    child.close(WAIT_S)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("target", "arguments", "ending"),
    [
        ("leave", 0.0, "it ended with status 0"),
        ("fail", "on purpose", "it ended with status 1"),
        ("no_such_function", None, "it ended with status 1"),
    ],
)
def test_the_end_of_a_child_is_told_in_words_after_what_it_said(start, target, arguments, ending):
    child = start(target, arguments)
    assert child.wait(WAIT_S)
    assert child.ending() == ending
    if target == "leave":
        assert child.receive(WAIT_S) == "last words"
    with pytest.raises(EOFError):
        child.receive(WAIT_S)
    child.send("nobody reads this")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ended_it_is_named(start, number):
    child = start("echo")
    child.send(1)
    child.receive(WAIT_S)
    os.kill(pid_of(child), number)
    with pytest.raises(EOFError):
        child.receive(WAIT_S)
    assert child.wait(WAIT_S)
    assert child.ending() == f"it was ended by signal {int(number)} ({number.name})"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_whole_group_does_not_stop_the_child(start, number):
    child = start("echo")
    os.kill(pid_of(child), number)  # while it starts
    child.send(1)
    assert child.receive(WAIT_S) == (None, 1)
    os.kill(pid_of(child), number)
    child.send(2)
    assert child.receive(WAIT_S) == (None, 2)


def test_the_thread_that_started_it_may_end_long_before(start):
    children = []
    thread = threading.Thread(target=lambda: children.append(start("echo")))
    thread.start()
    thread.join()
    gc.collect()
    threading.Event().wait(0.3)
    children[0].send(1)
    assert children[0].receive(WAIT_S) == (None, 1)


@pytest.mark.parametrize("target", ["echo", "say_pid_and_compute"])
def test_a_parent_that_is_killed_takes_it_along(target):
    script = (
        "import time, psutil\n"
        "from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess\n"
        f"child = ChildProcess('{TARGETS}:{target}', None, 'test-child'); child.start(); child.send(1)\n"
        "child.receive(30)\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with run_script(["-c", script]) as parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        assert gone(pid)


def test_a_parent_that_just_ends_takes_it_along():
    script = (
        "import os\n"
        "from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess\n"
        f"child = ChildProcess('{TARGETS}:say_pid_and_compute', None, 'test-child'); child.start()\n"
        "print(child.receive(30), flush=True)\n"
    )
    with run_script(["-c", script]) as parent:
        pid = int(parent.stdout.readline())
        assert parent.wait(WAIT_S) == 0
        assert gone(pid)


def test_what_it_prints_does_not_reach_the_answer_on_stdout():
    script = (
        "from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess\n"
        f"child = ChildProcess('{TARGETS}:echo_and_print', None, 'test-child'); child.start(); child.send(1)\n"
        "print(child.receive(30)); child.close(30)\n"
    )
    with run_script(["-c", script]) as parent:
        stdout, stderr = parent.communicate(timeout=WAIT_S)
    assert stdout == "(None, 1)\n"
    assert "noise on stdout" in stderr


def test_neither_the_users_main_module_nor_the_working_directory_is_imported(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "psutil.py").write_text("raise RuntimeError('imported from the working directory')")
    (tmp_path / "here" / "signal.py").write_text("raise RuntimeError('imported from the working directory')")
    (tmp_path / "main.py").write_text(
        "print('main runs')\n"
        "from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess\n"
        f"child = ChildProcess('{TARGETS}:echo', None, 'test-child'); child.start(); child.send(1)\n"
        "print(child.receive(30)); child.close(30)\n"
    )
    with run_script([str(tmp_path / "main.py")], cwd=tmp_path / "here") as parent:
        stdout, stderr = parent.communicate(timeout=WAIT_S)
    assert stdout == "main runs\n(None, 1)\n", stderr


def test_descriptors_of_the_parent_do_not_leak_into_it(start, tmp_path):
    with socket.socket() as listening, (tmp_path / "file").open("w"):
        listening.bind(("127.0.0.1", 0))
        first, second = start("echo"), start("descriptors")
        seen = second.receive(WAIT_S)
        first.send(1)
        first.receive(WAIT_S)
    assert len(seen) == 3 + 1 + 1  # the standard ones, its connection, and what lists them


def test_many_starts_and_closes_leave_no_thread_no_process_and_no_descriptor(start):
    start("leave", 0.0).close(WAIT_S)
    process = psutil.Process()
    before = (threading.active_count(), process.num_fds(), len(process.children()))
    for _ in range(10):
        child = start("echo")
        child.close(WAIT_S)
        child.close(WAIT_S)
    assert (threading.active_count(), process.num_fds(), len(process.children())) == before


def test_a_fork_of_the_parent_may_close_its_copy_without_ending_the_child(start):
    child = start("echo")
    child.send(1)
    child.receive(WAIT_S)
    forked = os.fork()
    if forked == 0:
        child.close(1.0)
        os._exit(0)
    assert os.waitpid(forked, 0)[1] == 0
    child.send(2)
    assert child.receive(WAIT_S) == (None, 2)


def test_a_child_that_dies_while_nobody_looks_is_no_zombie(start):
    child = start("echo")
    child.send(1)
    child.receive(WAIT_S)
    pid = pid_of(child)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert not psutil.pid_exists(pid)


def test_what_is_sent_before_the_start_arrives_first():
    child = ChildProcess(f"{TARGETS}:echo", None, "test-child")
    child.send(1)
    try:
        child.start()
        child.send(2)
        assert [child.receive(WAIT_S)[1] for _ in range(2)] == [1, 2]
    finally:
        child.close(WAIT_S)


def test_one_that_is_killed_before_it_runs_does_not_run():
    child = ChildProcess(f"{TARGETS}:echo", None, "test-child")
    child.kill()
    try:
        child.start()
        assert child.wait(WAIT_S)
        assert child.ending() == "it was ended by signal 9 (SIGKILL)"
    finally:
        child.close(WAIT_S)

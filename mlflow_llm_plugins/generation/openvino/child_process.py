"""A process beside this one that computes for it, and that never outlives it."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from mlflow_llm_plugins.errors import HardwareError

_STARTING_S = 60.0  # for the system to start a program; on a machine that swaps
_STDERR = 2


class ChildProcess:
    """A program that runs one function of this package and exchanges messages with it; for one start only.

    It is ended by the end of this process, however that comes, and by `kill` and `close`. It is a new interpreter
    that imports nothing of `__main__`. Ctrl-C at a terminal and a service manager's stop reach it as well as its
    parent; it takes no notice of them, so that the parent can finish what is open. What it prints goes to stderr.

    `send`, `kill`, `is_alive` and `ending` may be called from any thread, `receive` from one at a time.
    """

    def __init__(self, target: str, arguments: object, name: str) -> None:
        """Nothing is started yet.

        Args:
            target: "package.module:function", called in the child with its `Connection` and the arguments. The child
                ends when it returns, raises, or finds at the connection that the parent has gone (EOFError).
            arguments: A value that can be pickled.
            name: For the threads and for messages.
        """
        self._name = name
        self._parent = os.getpid()  # a fork of this process has a copy of this object, and no child
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._outbox: queue.SimpleQueue[object | None] = queue.SimpleQueue()  # None is the end
        self._outbox.put((target, arguments))
        self._threads: list[threading.Thread] = []
        self._is_killed = False

    def start(self) -> None:
        """Start the program and send it its target; returns before it has imported anything.

        Raises:
            HardwareError: The system cannot start it.
        """
        if os.name != "posix":
            raise HardwareError(f"{self._name} needs a POSIX system (Linux or macOS); this one is {sys.platform}.")
        started: Future[None] = Future()
        self._start_thread(self._keep, started, name=f"{self._name}-keeper")
        try:
            started.result(_STARTING_S)
        except (OSError, FutureTimeoutError) as error:  # two classes before Python 3.11
            raise HardwareError(f"{self._name} cannot be started: {error}.") from error
        self._start_thread(self._send_all, name=f"{self._name}-sender")

    def send(self, message: object) -> None:
        """Send a value that can be pickled. Never waits; kept until the start, after the end nothing happens."""
        self._outbox.put(message)

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message of the child.

        Args:
            timeout_s: None waits until there is one, or the child ends.

        Raises:
            TimeoutError: None came in time.
            EOFError: The child has ended, and all of its messages have been received.
        """
        if self._connection is None:
            raise EOFError
        try:
            if not self._connection.poll(timeout_s):
                raise TimeoutError(f"{self._name} sent nothing within {timeout_s:g} s.")
            return self._connection.recv()
        except TimeoutError:
            raise
        except OSError as error:  # reset, or cut off in the middle of a message
            raise EOFError from error

    def is_alive(self) -> bool:
        """Whether the program runs."""
        return self._process is not None and self._process.returncode is None

    def ending(self) -> str:
        """How it ended, in words that follow a name; empty while it runs and before it has started."""
        status = None if self._process is None else self._process.returncode
        if status is None:
            return ""
        if status >= 0:
            return f"it ended with status {status}"
        return f"it was ended by signal {-status} ({_signal_name(-status)})"

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; whether it has ended."""
        for thread in self._threads[:1]:  # the one that waits for it
            thread.join(timeout_s)
        return not self.is_alive()

    def kill(self) -> None:
        """End the program at once, whatever it does; does not wait, and is harmless when it has ended.

        One that is only being started ends as soon as it runs.
        """
        self._is_killed = True
        if self._process is not None and os.getpid() == self._parent:
            self._process.kill()

    def close(self, timeout_s: float) -> None:
        """End the program and the threads and free the connection; `receive` must not be running any more.

        Args:
            timeout_s: For the system to end it; only a process that hangs in a driver takes long.
        """
        if os.getpid() != self._parent:
            return
        self.kill()
        self._outbox.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        if self._connection is not None and not self.is_alive():
            self._connection.close()

    def _start_thread(self, target: Any, *arguments: object, name: str) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep(self, started: Future[None]) -> None:
        """Start the program and wait for its end; Linux ends it when this very thread ends (PR_SET_PDEATHSIG)."""
        # Inherited, and never taken back: an interpreter that starts could not ignore them from its first moment.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _program(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=_STDERR,  # the parent's own stdout may carry an answer
                    pass_fds=[theirs.fileno()],
                )
            self._connection = Connection(ours.detach())
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        if self._is_killed:  # while there was no process to be killed
            self._process.kill()
        self._process.wait()
        self._outbox.put(None)

    def _send_all(self) -> None:
        with suppress(OSError):  # it has ended; `receive` tells
            while (message := self._outbox.get()) is not None:
                assert self._connection is not None
                self._connection.send(message)


def _program(descriptor: int) -> str:
    """What the child runs: `python -m` would look into the working directory first."""
    path = [entry or os.getcwd() for entry in sys.path]
    return (
        f"import sys; sys.path[:] = {path!r}\n"
        f"from {__package__}.child_main import main; main({descriptor}, {os.getpid()})"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "no name"

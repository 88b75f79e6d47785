"""Ways to break a running engine from outside: a hook before the forward pass, signals to a child process."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import psutil


class Fault:
    """Raises or blocks in the next forward pass of the generation thread, once a test says so; counts tokens."""

    def __init__(self, model: Any, *, paged: bool = True) -> None:
        """Hook in; `paged` leaves out plain forward passes, which are those of scoring beside continuous batching."""
        self._paged = paged
        self.error: BaseException | None = None  # raised
        self.blocks = threading.Event()  # waited for while `entered` is set
        self.blocks.set()
        self.entered = threading.Event()
        self.tokens = 0  # of all forward passes
        model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if self._paged and "cu_seq_lens_q" not in kwargs:
            return
        self.tokens += kwargs["input_ids"].shape[-1]
        if not self.blocks.is_set():
            self.entered.set()
            assert self.blocks.wait(60)
        error, self.error = self.error, None
        if error is not None:
            raise error

    def __deepcopy__(self, memo: dict[int, Any]) -> Fault:
        return self


class ChildFault:
    """The same for an engine that computes in a child process: signals end it, stop it and let it go on."""

    def __init__(self) -> None:
        """To be made before the engine is opened: the child is the one that was not there before."""
        self._others = set(_children())
        self.blocks = _Stop(self)
        self.entered = threading.Event()  # a child that is stopped stands wherever it is
        self.entered.set()

    @property
    def child(self) -> psutil.Process:
        """The process that computes, once it runs."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if children := set(_children()) - self._others:
                return children.pop()
            threading.Event().wait(0.01)
        raise AssertionError("no child process was started")

    @property
    def error(self) -> None:
        """Nothing is put off: a signal is sent when it is set."""

    @error.setter
    def error(self, number: signal.Signals) -> None:
        os.kill(self.child.pid, number)


class _Stop:
    """Like the event that a forward pass waits for."""

    def __init__(self, fault: ChildFault) -> None:
        self._fault = fault

    def clear(self) -> None:
        os.kill(self._fault.child.pid, signal.SIGSTOP)

    def set(self) -> None:
        os.kill(self._fault.child.pid, signal.SIGCONT)


def _children() -> list[psutil.Process]:
    """Those of this process that run a part of the engine, also as zombies."""
    found = []
    for process in psutil.Process().children():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or any("child_main" in part for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found

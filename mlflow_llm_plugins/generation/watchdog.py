"""Sees to it that nobody waits in vain: deadlines, a runner that dies, a step that does not return."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from mlflow_llm_plugins.errors import EngineLostError
from mlflow_llm_plugins.generation.open_requests import OpenRequests
from mlflow_llm_plugins.generation.runner import Runner

_logger = logging.getLogger(__name__)

_TICKS_AFTER_A_DISTURBANCE = 8
_TICK_S = 0.25  # while requests are open; without any it sleeps
_RESTARTS_WITHIN_S = 3600.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0  # after a restart that failed, doubled each time
_CLOSE_S = 5.0


class Watchdog:
    """A thread that looks after a runner and the requests that wait for it."""

    def __init__(self, runner: Runner, open_requests: OpenRequests, step_timeout_s: float, max_restarts: int) -> None:
        """Start to watch.

        Args:
            runner: Restarted when it dies.
            open_requests: Failed at once when the runner dies or stands still.
            step_timeout_s: Seconds after which a step counts as one that does not return.
            max_restarts: Within an hour, those that fail included; after them the runner stays dead.
        """
        self._runner = runner
        self._open = open_requests
        self._step_timeout_s = step_timeout_s
        self._max_restarts = max_restarts
        self._restarts: deque[float] = deque()
        self._failure: str | None = None
        self._stalled_at: int | None = None  # the step that does not return
        self.is_restarting = False
        self._progress = (runner.steps, time.monotonic())
        self._closing = threading.Event()
        self.restarts = 0  # in all
        self._thread = threading.Thread(target=self._watch, name="llm-engine-watchdog", daemon=True)
        self._thread.start()

    def failure(self) -> str | None:
        """Why requests cannot be taken now, or None when they can."""
        return self._failure

    @property
    def is_stalled(self) -> bool:
        """Whether a step does not return; it ends when the step does."""
        return self._stalled_at is not None

    def look(self) -> None:
        """Look now; called when a request is opened, so that an idle engine needs no clock."""
        self._runner.disturbed.set()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._runner.begin_close()  # its thread may be in a restart that takes long
        self._runner.disturbed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)

    def _watch(self) -> None:
        ticks = 0  # to look once more at a thread that was still about to die
        while not self._closing.is_set():
            busy = len(self._open) > 0 or self._stalled_at is not None or self._runner.owes_a_step
            tick = min(_TICK_S, self._step_timeout_s / 4)
            disturbed = self._runner.disturbed.wait(tick if busy or ticks > 0 else None)
            self._runner.disturbed.clear()
            ticks = _TICKS_AFTER_A_DISTURBANCE if disturbed else ticks - 1
            if not self._closing.is_set():
                self._look_around(was_busy=busy)

    def _look_around(self, was_busy: bool) -> None:
        try:
            for stream in self._open.all():
                stream.expire_if_due()
            if not self._runner.is_alive():
                self._recover()
            else:
                self._watch_steps(was_busy)
        except Exception:  # a watchdog that dies of an error would be the one thing that nobody sees
            _logger.exception("Looking after the %s failed.", self._runner.what)

    def _recover(self) -> None:
        if self._closing.is_set() or (self._failure is not None and not self.is_stalled):
            return  # dead for good
        self._stalled_at = None
        reason = f"The {self._runner.what} died: {self._runner.death() or 'it ended without an error'}."
        if not self._may_restart():
            self._give_up(f"{reason} It died {len(self._restarts) + 1} times within an hour and stays dead now.")
            return
        self._failure, self.is_restarting = f"{reason} It is being started again; try again.", True
        self._fail_open(self._failure)
        _logger.warning("%s Starting it again.", reason)
        error = self._restart()
        if self._closing.is_set():
            return
        if error is not None:
            self._give_up(f"{reason} It cannot be started again: {error}")
            return
        self._progress = (self._runner.steps, time.monotonic())
        self._failure, self.is_restarting = None, False

    def _restart(self) -> Exception | None:
        """Try until it succeeds, for what is missing may come back; the last error where no try is left."""
        pause = _FIRST_PAUSE_S
        error: Exception | None = None
        while not self._closing.is_set() and self._may_restart():
            self._restarts.append(time.monotonic())
            self.restarts += 1
            try:
                self._runner.restart()
                return None
            except Exception as failed:
                error = failed
            if self._may_restart():
                _logger.warning("The %s cannot be started: %s Trying again.", self._runner.what, error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        return error

    def _give_up(self, failure: str) -> None:
        self._failure, self.is_restarting = failure, False
        _logger.error("%s", failure)
        self._fail_open(failure)

    def _may_restart(self) -> bool:
        while self._restarts and time.monotonic() - self._restarts[0] > _RESTARTS_WITHIN_S:
            self._restarts.popleft()
        return len(self._restarts) < self._max_restarts

    def _watch_steps(self, was_busy: bool) -> None:
        steps, now = self._runner.steps, time.monotonic()
        if steps != self._progress[0] or not was_busy:
            self._progress = (steps, now)
            if self._stalled_at is not None and steps != self._stalled_at:
                _logger.warning("The generation step that stood still has returned; requests are taken again.")
                self._stalled_at = self._failure = None
        elif now - self._progress[1] > self._step_timeout_s and self._stalled_at is None:
            self._stalled_at = steps
            self._failure = f"A generation step has not returned within step_timeout_s={self._step_timeout_s:g} s."
            _logger.error("%s Requests are refused until it does.", self._failure)
            self._fail_open(self._failure)
            self._runner.abandon_step()

    def _fail_open(self, message: str) -> None:
        for stream in self._open.all():
            stream.fail(EngineLostError(message))

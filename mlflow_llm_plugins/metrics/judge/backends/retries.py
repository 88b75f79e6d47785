"""Tries again where it may help, within a bound that is never exceeded by waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_exponential_jitter

from mlflow_llm_plugins.metrics.judge.backends.refusals import NO_REFUSAL, Refusal
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError

Answer = TypeVar("Answer")
_GROWING = wait_exponential_jitter(initial=0.25, max=15, jitter=0.25)  # seconds between tries
TRANSIENT = frozenset({408, 425, 429, 502, 503, 504, 529})  # HTTP statuses after which a server may answer later


class UnansweredError(NoOpinionError):
    """A request without an answer that can be used."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        refusal: Refusal = NO_REFUSAL,
        is_transient: bool = False,
        is_unreached: bool = False,
        pause_s: float = 0,
    ) -> None:
        """Say why.

        Args:
            reason: For the table; nothing of the question is in it.
            status: HTTP's.
            refusal: The server's own words, to look into, never to show.
            is_transient: Another try may help.
            is_unreached: There was no server.
            pause_s: Seconds that the server asks to wait.
        """
        super().__init__(reason)
        self.status = status
        self.refusal = refusal
        self.is_transient = is_transient or status in TRANSIENT
        self.is_unreached = is_unreached
        self.is_silence = status is None and (is_transient or is_unreached)  # nothing came, not even a refusal
        self.pause_s = pause_s


def with_retries(
    attempt: Callable[[], Answer], within_s: Callable[[UnansweredError], float], stopping: threading.Event
) -> Answer:
    """What the first try gives that is answered.

    Args:
        attempt: Raises `UnansweredError`.
        within_s: Seconds after the first try in which the last one begins; 0: no second try.
        stopping: Ends pauses and tries when it is set; also the first try is none then.

    Raises:
        UnansweredError: Of the last try.
    """

    def begin() -> Answer:
        if stopping.is_set():
            raise UnansweredError("the judge is no longer asked", is_transient=True)
        return attempt()

    def is_late(state: RetryCallState) -> bool:
        elapsed_s = (state.seconds_since_start or 0) + state.upcoming_sleep
        return stopping.is_set() or elapsed_s > within_s(_failure(state))

    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, UnansweredError) and error.is_transient),
        wait=lambda state: max(_failure(state).pause_s, _GROWING(state)),
        stop=is_late,
        sleep=sleep_using_event(stopping),
        reraise=True,
    )
    return retrying(begin)


def _failure(state: RetryCallState) -> UnansweredError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, UnansweredError)  # nothing else is tried again
    return error

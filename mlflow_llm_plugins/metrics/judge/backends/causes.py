"""What is behind an exception of MLflow's clients, which wrap what failed, and hide it at times (`from None`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError

_UNREACHED = frozenset(  # names of what requests, urllib3 and Python raise
    {
        "ConnectTimeout",
        "ConnectTimeoutError",
        "NewConnectionError",
        "NameResolutionError",
        "ConnectionRefusedError",
        "ProxyError",
        "SSLError",
    }
)
_LATE = frozenset({"Timeout", "TimeoutError"})
_BROKEN = frozenset({"ProtocolError", "ChunkedEncodingError", "ConnectionResetError", "ConnectionAbortedError"})
_ANY = frozenset({"ConnectionError"})  # that tells no more


def causes_of(error: BaseException, handled: BaseException | None = None) -> Iterator[BaseException]:
    """An exception and what it came from, outermost first, also what `from None` hides: to look at, not to show.

    Args:
        error: That was caught.
        handled: What the caller was handling before, `sys.exc_info()[1]`; it is behind the error, but no cause of it.
    """
    seen = {id(handled)}  # some exceptions are their own causes
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def shown_of(causes: Sequence[BaseException]) -> Sequence[BaseException]:
    """Those that Python shows: up to the first one that hides what is behind it."""
    ends = (i for i, cause in enumerate(causes, 1) if cause.__cause__ is None and cause.__suppress_context__)
    return causes[: next(ends, None)]


def status_of(causes: Sequence[BaseException]) -> int | None:
    """HTTP's, where a server answered with one."""
    for cause in causes:
        response = getattr(cause, "response", None)
        status = getattr(cause, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def silence_of(causes: Sequence[BaseException]) -> UnansweredError | None:
    """What to say where nobody answered; None: somebody did, or it has nothing to do with a connection."""
    kinds = {base.__name__ for cause in causes for base in type(cause).__mro__}
    if kinds & _UNREACHED:
        return UnansweredError("the judge cannot be reached", is_unreached=True)
    if kinds & _LATE:
        return UnansweredError("the judge did not answer in time", is_transient=True)
    if kinds & _BROKEN:
        return UnansweredError("the judge's answer broke off", is_transient=True)
    return UnansweredError("the judge cannot be reached", is_unreached=True) if kinds & _ANY else None

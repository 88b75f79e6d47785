"""The server's access log: each line has the id of its request, as the client got it in `x-request-id`."""

from __future__ import annotations

import logging
from contextvars import ContextVar

CURRENT_ID: ContextVar[str] = ContextVar("llm_request_id", default="")

_ACCESS_LOG = "uvicorn.access"


class _WithRequestId(logging.Filter):
    """Writes the id behind the client's address, as uvicorn's formatter has no place for more."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple) and record.args and CURRENT_ID.get():
            record.args = (f"{record.args[0]} {CURRENT_ID.get()}", *record.args[1:])
        return True


_FILTER = _WithRequestId()  # one, which a logger takes only once


def name_requests() -> None:
    """Have uvicorn's lines name the requests that our front has seen."""
    logging.getLogger(_ACCESS_LOG).addFilter(_FILTER)

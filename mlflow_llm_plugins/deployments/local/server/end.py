"""How a server ended and why, as far as its exit status and its last words tell."""

from __future__ import annotations

import re
import signal
from contextlib import suppress

from mlflow_llm_plugins.deployments.local.server.log import cause
from mlflow_llm_plugins.errors import DeploymentError

# MLflow 3.17's command says with these words what the server that it had started ended with.
_STATUS = re.compile(r"(?:non zero return code\. Return code =|Non-zero exit code:) (-?\d+)")


class ServerFailedError(DeploymentError):
    """A server that did not become ready. The message holds the end of its log."""

    def __init__(self, what: str, tail: str, is_explained: bool = True) -> None:
        """Of what is known.

        Args:
            what: Happened, for example "exit status 3".
            tail: The end of its log.
            is_explained: Whether that log says why.
        """
        why = cause(tail) if is_explained else ""
        self.reason = f"{what}: {why}" if why else what
        self.is_port_taken = "address already in use" in tail.lower()
        super().__init__(f"{self.reason}\nThe end of its log:\n{tail}" if tail else self.reason)


def end_of(status: int | None, tail: str) -> str:
    """How it ended, for example "killed by SIGKILL".

    Args:
        status: Exit status of the command that started it, negative for a signal; None: it still runs.
        tail: The end of the log, where that command says more.
    """
    found = _STATUS.findall(tail)
    if found and status in (None, 1):
        status = int(found[-1])
    if status is None:
        return "its process ended"
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"

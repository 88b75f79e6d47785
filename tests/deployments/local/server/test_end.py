"""How the end of a server is told."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError, end_of

COMMAND = "Exception: Command '['bash', '-c', 'exec uvicorn']' returned non zero return code. Return code = -9"


@pytest.mark.parametrize(
    ("status", "tail", "said"),
    [
        (3, "", "exit status 3"),
        (0, "", "exit status 0"),
        (-9, "", "killed by SIGKILL"),
        (-15, COMMAND, "killed by SIGTERM"),  # the command itself was
        (1, COMMAND, "killed by SIGKILL"),
        (None, COMMAND, "killed by SIGKILL"),
        (1, "mlflow.utils.process.ShellCommandException: Non-zero exit code: 3\nCommand: x", "exit status 3"),
        (None, "", "its process ended"),
        (-63, "", "killed by signal 63"),
    ],
)
def test_the_end_is_the_servers_where_the_command_tells_it(status, tail, said):
    assert end_of(status, tail) == said


def test_the_message_has_what_happened_why_and_the_end_of_the_log():
    error = ServerFailedError("exit status 1", "loading\nTraceback (most recent call last):\nValueError: no weights")
    assert error.reason == "exit status 1: ValueError: no weights"
    assert str(error).startswith("exit status 1: ValueError: no weights\nThe end of its log:\nloading\n")
    assert not error.is_port_taken


def test_a_log_that_explains_nothing_is_shown_but_not_blamed():
    assert ServerFailedError("not ready", "loading", is_explained=False).reason == "not ready"
    assert str(ServerFailedError("not started", "")) == "not started"


def test_a_taken_port_is_seen():
    assert ServerFailedError("exit status 1", "ERROR: [Errno 98] Address already in use").is_port_taken

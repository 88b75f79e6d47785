"""Each status becomes the error that says what to do, in the server's own words and none of ours or the user's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.failures import (
    broken_off,
    failure_in_stream,
    failure_of,
    silent,
    unreachable,
    unreadable,
)
from mlflow_llm_plugins.errors import (
    AccessDeniedError,
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    QueueFullError,
    RequestTimeoutError,
    ResourceNotFoundError,
    UnauthenticatedError,
)

ADDRESS = Address("http://127.0.0.1:1", is_ours=True, api_key_file=Path("/keys"), timeout_s=7.5, name="chat")
OPEN = Address("http://127.0.0.1:1", is_ours=True, api_key_file=None, timeout_s=7.5, name="chat")
OPENAI = {"error": {"message": "Words of the server.", "type": "t", "param": None, "code": None}}
MLFLOW = {"error_code": "BAD_REQUEST", "message": "Words of the server.", "stack_trace": "Traceback: line 4711"}
BOTH = {**MLFLOW, **OPENAI}


def failure(status: int, body: object = OPENAI, address: Address = ADDRESS):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return failure_of(status, content, "/v1/completions", address)


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (400, InvalidInputError, "refuses the request"),
        (422, InvalidInputError, "refuses the request"),
        (401, UnauthenticatedError, "It was sent the first key of api_key_file='/keys'."),
        (403, AccessDeniedError, "It was sent the first key of api_key_file='/keys'."),
        (404, ResourceNotFoundError, "Is its model of another flavor?"),
        (413, InvalidInputError, "-C environment=MLFLOW_LLM_MAX_BODY_BYTES=N"),
        (429, QueueFullError, "Try again later, or raise max_queue_size"),
        (499, GenerationError, "failed on the request"),
        (500, GenerationError, "failed on the request"),
        (502, GenerationError, "failed on the request"),
        (503, EngineUnavailableError, "`mlflow deployments get -t local --name chat` says why."),
        (504, RequestTimeoutError, "may take 7.5 s; ask for less, or raise request_timeout_s"),
        (405, InvalidInputError, "answered /v1/completions with HTTP status 405"),
        (302, GenerationError, "answered /v1/completions with HTTP status 302"),
        (507, GenerationError, "answered /v1/completions with HTTP status 507"),
    ],
)
@pytest.mark.parametrize("body", [OPENAI, MLFLOW, BOTH, {"detail": "Words of the server"}], ids=str)
def test_status_becomes_an_error_with_the_servers_words_and_a_remedy(status, kind, remedy, body):
    error = failure(status, body)
    assert type(error) is kind
    assert str(error).startswith("Deployment 'chat' ")
    assert "Words of the server." in str(error)
    assert remedy in str(error)
    assert "4711" not in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", [], {}, {"error": 3}, {"message": " "}, b"\xff"])
def test_an_answer_without_words_says_so(body):
    assert str(failure(500, body)) == "Deployment 'chat' failed on the request: it gives no reason."


def test_missing_route_is_named():
    assert "has no route /v1/completions: Not Found. Is" in str(failure(404, {"detail": "Not Found"}))


def test_without_a_file_of_keys_the_error_tells_how_to_name_one():
    assert "mlflow deployments update -t local --name chat -C api_key_file=PATH" in str(failure(401, address=OPEN))


@pytest.mark.parametrize(
    "error_at",
    [
        unreachable,
        broken_off,
        silent,
        lambda address: unreadable("text/html", "JSON", "/v1/completions", address),
        lambda address: failure(503, address=address),
        lambda address: failure(401, address=address),
    ],
)
@pytest.mark.parametrize(
    ("target", "written"), [("local:/srv/state", "local:/srv/state"), ("local:/my state", "'local:/my state'")]
)
def test_commands_name_the_target_as_a_shell_takes_it(error_at, target, written):
    error = error_at(dataclasses.replace(OPEN, target=target))
    assert f"-t {written} --name chat" in str(error)
    assert "-t local " not in str(error)


def test_long_words_are_cut():
    text = str(failure(400, {"message": "x" * 501 + "4711"}))
    assert text.endswith("x" * 500 + "…")


@pytest.mark.parametrize(
    "message",
    [
        "Failed to predict data 'secret\n{x}'. \nError: No column 'a'",
        "Failed to enforce schema of data 'secret' with schema '[a]'. Error: No column 'a'",
        "Failed to predict data 'secret'. \nError: Failed to enforce schema of data '   secret' with schema "
        "'[a]'. Error: No column 'a'",
    ],
)
def test_data_that_mlflow_repeats_are_left_out(message):
    assert str(failure(400, {"message": message})) == "Deployment 'chat' refuses the request: No column 'a'."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "Late.", "type": "timeout_error", "code": "request_timeout"}, RequestTimeoutError),
        ({"message": "Late.", "type": "timeout_error", "code": None}, RequestTimeoutError),
        ({"message": "Late.", "type": "server_error", "code": "engine_unavailable"}, EngineUnavailableError),
        ({"message": "Late.", "type": "server_error", "code": "internal_error"}, GenerationError),
        ({"message": "Late.", "code": 17}, GenerationError),
        ("Late.", GenerationError),
    ],
)
def test_error_in_a_stream_is_told_apart_by_its_code(error, kind):
    found = failure_in_stream(error, "/v1/completions", ADDRESS)
    assert type(found) is kind
    assert "Late." in str(found)

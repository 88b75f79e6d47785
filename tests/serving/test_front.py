"""Who may come in, how much they may bring, and where it goes."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 2}
OPEN = ("/ping", "/health", "/ready")
CLOSED = (
    *("/v1/models", "/metrics", "/version", "/docs", "/redoc", "/openapi.json", "/nothing", "/"),
    *("//ping", "/ping/", "/PING", "/ping/../version", "/health/", "/invocations/v1/models"),
)


@pytest.fixture(scope="module")
def locked(serve, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("one\ntwo\n", encoding="utf-8")
    with serve(environ={"MLFLOW_LLM_API_KEY_FILE": str(path), "MLFLOW_LLM_MAX_BODY_BYTES": "2048"}) as running:
        yield running


@pytest.mark.parametrize("path", OPEN)
def test_who_watches_over_the_server_needs_no_key(locked, path):
    with locked.client() as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic one"])
def test_all_other_paths_need_a_key(locked, path, authorization):
    headers = {} if authorization is None else {"authorization": authorization}
    with locked.client() as client:
        response = client.get(client.base_url.copy_with(raw_path=path.encode()), headers=headers)
    assert response.status_code == 401
    assert response.headers["connection"] == "close"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "one" not in response.text.replace("None", "").split()


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "HEAD", "PUT"])
def test_no_method_goes_round_the_key(locked, method):
    with locked.client() as client:
        assert client.request(method, "/v1/chat/completions").status_code == 401


@pytest.mark.parametrize("key", ["one", "two"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations/v1/chat/completions", "/invocations"])
def test_each_key_opens_every_route(locked, key, path):
    with locked.client(headers={"authorization": f"bearer {key}"}) as client:
        assert client.post(path, json=CHAT).json()["object"] == "chat.completion"


def test_what_is_not_ours_is_mlflow_s(locked):
    with locked.client(headers={"authorization": "Bearer one"}) as client:
        assert client.get("/version").text.startswith("3.")
        assert client.get("/ping").text == "\n"
        assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1", "//v1/models", "/v2/chat/completions", "/invocations/"])
def test_what_nobody_has_gets_openai_s_error_and_is_counted(locked, path):
    with locked.client(headers={"authorization": "Bearer one"}) as client:
        response = client.get(client.base_url.copy_with(raw_path=path.encode()))
        assert (response.status_code, response.json()["error"]["message"]) == (404, "There is no such route here.")
        assert 'mlflow_llm_requests_total{route="none",status="404"}' in client.get("/metrics").text


def test_the_access_log_names_each_request_by_its_id(locked, caplog):
    with caplog.at_level("INFO", "uvicorn.access"), locked.client() as client:
        client.get("/ready", headers={"x-request-id": "mine-2"})
        client.get("/v1/models", headers={"x-request-id": "mine-3"})
    lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert [("mine-2" in line, "mine-3" in line) for line in lines] == [(True, False), (False, True)]
    assert lines[1].endswith('- "GET /v1/models HTTP/1.1" 401')


def in_pieces(size):
    yield b'{"messages": ["'
    for _ in range(size // 512):
        yield b"x" * 512
    yield b'"]}'


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/invocations", "/nothing"])
@pytest.mark.parametrize("form", ["content-length", "chunked"])
def test_a_body_that_is_too_large_is_refused(locked, path, form):
    body = in_pieces(8192) if form == "chunked" else b"".join(in_pieces(8192))
    headers = {"authorization": "Bearer one", "content-type": "application/json"}
    with locked.client() as client:
        response = client.post(path, content=body, headers=headers)
        if path == "/nothing" and form == "chunked":  # nobody reads it
            assert response.status_code == 404
        else:
            assert response.status_code == 413
            assert response.headers["connection"] == "close"
            assert "larger than 2048 bytes (MLFLOW_LLM_MAX_BODY_BYTES)" in response.json()["error"]["message"]
        assert client.get("/health").status_code == 200
    assert locked.engine.stats().open_requests == 0


def test_every_answer_has_the_request_s_id(locked):
    with locked.client() as client:
        given = client.get("/ready", headers={"x-request-id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        made = [client.get(path).headers["x-request-id"] for path in ("/ready", "/ping", "/v1/models")]
        odd = client.get("/ready", headers={"x-request-id": "a" * 500}).headers["x-request-id"]
    assert len(set(made)) == 3
    assert all(name.startswith("req-") for name in [*made, odd])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MLFLOW_LLM_API_KEY", "", "holds no key"),
        ("MLFLOW_LLM_API_KEY_FILE", "/nowhere/keys", "cannot be read"),
        ("MLFLOW_LLM_MAX_PROMPTS", "none", "max_prompts='none'"),
        ("MLFLOW_LLM_TRACE_SAMPLE", "2", "must be a number from 0"),
    ],
)
def test_a_server_does_not_start_with_keys_or_limits_that_cannot_hold(serve, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match=message), serve():
        pass

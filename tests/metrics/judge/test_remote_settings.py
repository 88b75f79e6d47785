"""What is recorded and shown of settings that may hold keys."""

import pytest

from mlflow_llm_plugins.errors import AccessDeniedError
from mlflow_llm_plugins.metrics.judge.backends.api_key import api_key
from mlflow_llm_plugins.metrics.judge.backends.settings import ServerSettings, without_secrets

KEY = "sk-secret"


@pytest.mark.parametrize(
    "params",
    [
        {"tools": [{"type": "mcp", "headers": {"Authorization": KEY}}]},
        {"tools": ({"authorization": KEY},)},
        {"a": [[{"b": [{"api_key": KEY}]}]]},
        {"extra_body": {"auth": KEY}},
        {"extra_body": {"auth": {"bearer": KEY}}},
        {"extra_body": {"api_keys": [KEY]}},
        {"extra_body": {"api_keys": [{"x": KEY}]}},
        {"extra_body": {"basic_auth": KEY, "Authentication": KEY, "passwd": KEY, "passphrase": KEY}},
        {"extra_query": {"sig": KEY, "signature": KEY, "x-sig": KEY}},
        {"extra_headers": {"X": KEY}, "cookies": {"session": KEY}, "bearer": KEY},
    ],
)
def test_keys_are_not_recorded_wherever_they_stand(params):
    assert KEY not in str(without_secrets(params))


def test_what_is_no_key_is_recorded_as_it_is():
    params = {
        "temperature": 0.5,
        "max_tokens": 9,
        "stop": ["a", "b"],
        "author": "me",
        "extra_body": {"config": {"design": 1, "top_k": [1, {"x": 2}]}, "authors": ["a"]},
        "keyboard": None,
    }
    assert without_secrets(params) == params


@pytest.mark.parametrize(
    "name",
    ["abcSECRET0123456789abcdef", "hf_secret", "A" * 64 + "B", "sk_ABC"],
)
def test_what_may_be_a_key_in_the_place_of_its_variable_is_not_repeated(name):
    with pytest.raises(AccessDeniedError) as told:
        api_key("https://h/v1", ServerSettings(api_key_env=name))
    assert name not in str(told.value)
    assert "judge: the variable that api_key_env names is not set; set it to the server's key" in str(told.value)


@pytest.mark.parametrize("name", ["NO_SUCH_KEY", "_NO_KEY_9"])
def test_a_variable_that_is_not_set_is_named(name):
    with pytest.raises(AccessDeniedError, match=f"judge: api_key_env='{name}' is not set; set it to the server's key"):
        api_key("https://h/v1", ServerSettings(api_key_env=name))


@pytest.mark.parametrize("path", [KEY, "SECRET", "eyJh.secret.sig", "c2Vj/cmV0==", "s" * 300, "~secret"])
def test_what_may_be_a_key_in_the_place_of_its_file_is_not_repeated(path):
    with pytest.raises(AccessDeniedError) as told:
        api_key("https://h/v1", ServerSettings(api_key_file=path))
    assert path not in str(told.value)
    assert str(told.value).startswith("judge: the file that api_key_file names cannot be read: ")


def test_a_path_and_a_file_that_is_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff")
    for path, words in {
        "/no/such/file": "cannot be read: No such file or directory.",
        "./keys": "cannot be read: No such file or directory.",
        "../no such keys": "cannot be read: No such file or directory.",
        "binary": "cannot be read: it is not UTF-8 text.",
        "empty": "holds no key; write one into it.",
    }.items():
        with pytest.raises(AccessDeniedError) as told:
            api_key("https://h/v1", ServerSettings(api_key_file=path))
        assert str(told.value) == f"judge: api_key_file={path!r} {words}"

"""`mlflow deployments predict` sends what the file says, though the command makes a table of it first."""

from __future__ import annotations

import errno
import io
import json
import os
import types
from pathlib import Path

import click
import mlflow.deployments.cli
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mlflow.deployments import BaseDeploymentClient
from mlflow.deployments.interface import plugin_store

from mlflow_llm_plugins.deployments.answers import predictions_of
from mlflow_llm_plugins.deployments.cli_input import is_cli, lenient_read_json, raw_input, read_payload
from mlflow_llm_plugins.deployments.payloads import request_of

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "123"}]


class RememberingClient(BaseDeploymentClient):
    """Answers with the request that it would send."""

    def predict(self, deployment_name=None, inputs=None, endpoint=None):
        assert is_cli()
        request = request_of(raw_input(inputs), is_ours=True)
        return predictions_of({"path": request.path, "body": request.body})

    def create_deployment(self, name, model_uri, flavor=None, config=None, endpoint=None): ...
    def update_deployment(self, name, model_uri=None, flavor=None, config=None, endpoint=None): ...
    def delete_deployment(self, name, config=None, endpoint=None): ...
    def list_deployments(self, endpoint=None): ...
    def get_deployment(self, name, endpoint=None): ...


@pytest.fixture
def predicted(monkeypatch):
    """What the stock command says to a file, with pandas as our hook gives it."""
    plugin = types.ModuleType("remembering")
    plugin.RememberingClient, plugin.run_local, plugin.target_help = RememberingClient, print, print
    monkeypatch.setitem(plugin_store.registry, "remembering", plugin)
    monkeypatch.setattr(pd, "read_json", lenient_read_json(pd.read_json))

    def run(path: Path) -> Result:
        arguments = ["predict", "-t", "remembering", "--name", "chat", "-I", str(path)]
        return CliRunner().invoke(mlflow.deployments.cli.commands, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def predict(predicted, tmp_path):
    """The request for a file with this text."""

    def run(text: str) -> dict:
        path = tmp_path / "payload.json"
        path.write_text(text, encoding="utf-8")
        result = predicted(path)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["predictions"]

    return run


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"messages": MESSAGES}, "/v1/chat/completions"),
        ({"messages": MESSAGES[:1]}, "/v1/chat/completions"),
        ({"messages": MESSAGES, "max_tokens": 3, "temperature": 0}, "/v1/chat/completions"),
        ({"messages": MESSAGES, "stop": ["a", "b", "c"]}, "/v1/chat/completions"),
        ({"messages": MESSAGES, "response_format": {"type": "json_object"}}, "/v1/chat/completions"),
        ({"prompt": "hi"}, "/v1/completions"),
        ({"prompt": "hi", "max_tokens": 3}, "/v1/completions"),
        ({"prompt": ["007", "1e5"]}, "/v1/completions"),
        ({"inputs": ["007", "b"], "params": {"temperature": 0}}, "/invocations"),
        ({"inputs": ["a"]}, "/invocations"),
        ({"instances": ["2026-01-02"]}, "/invocations"),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a"], ["b"]]}}, "/invocations"),
        ({"dataframe_records": [{"prompt": "007", "updated_at": 5}]}, "/invocations"),
        ({"inputs": {"a": ["x", "y"], "b": ["z", "w"]}}, "/invocations"),
        ({"inputs": {"0": [1, 2], "b": [3, 4]}}, "/invocations"),
        ({"inputs": {"0": [1, 2]}, "params": {"k": 1}}, "/invocations"),
        ({"inputs": {"0": "a"}, "params": {}}, "/invocations"),
        ({"inputs": {}}, "/invocations"),
    ],
    ids=str,
)
def test_a_request_arrives_as_it_was_written(predict, payload, path):
    assert predict(json.dumps(payload)) == {"path": path, "body": payload}


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (["007", "1e5"], {"inputs": ["007", "1e5"]}),
        ([["007"], ["b"]], {"inputs": [["007"], ["b"]]}),
        (MESSAGES, {"messages": MESSAGES}),
        ([{"prompt": "007"}, {"prompt": "b"}], {"dataframe_records": [{"prompt": "007"}, {"prompt": "b"}]}),
        ([{"messages": MESSAGES}], {"dataframe_records": [{"messages": MESSAGES}]}),
        ([{"a": 1}, 2], {"inputs": [{"a": 1}, 2]}),
        ("123", {"inputs": ["123"]}),
    ],
    ids=str,
)
def test_rows_keep_their_types(predict, content, body):
    assert predict(json.dumps(content))["body"] == body


def test_a_table_written_column_by_column_stays_the_table_that_pandas_reads(predict):
    body = predict(json.dumps({"question": {"0": "a", "1": "b"}}))["body"]
    assert body == {"dataframe_split": {"columns": ["question"], "data": [["a"], ["b"]]}}


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"prompt": ["007", "b"]}),
        pd.DataFrame({"messages": [MESSAGES, MESSAGES[:1]]}),
        pd.DataFrame({"inputs": ["a", "2026-01-02"], "created_at": [1, 2]}),
        pd.DataFrame({"prompt": list("abcdefghijkl"), "n": range(12)}),
        pd.DataFrame({"prompt": ["a", "b"], "n": [1, 2]}, index=[7, 3]),
    ],
    ids=lambda frame: "-".join(frame),
)
def test_a_table_with_a_column_named_like_a_request_arrives_row_by_row(predict, frame):
    split = {"columns": list(frame), "data": frame.to_numpy().tolist()}
    assert predict(frame.to_json()) == {"path": "/invocations", "body": {"dataframe_split": split}}


def test_a_mark_at_the_beginning_of_the_file_does_no_harm(predict):
    assert predict('\ufeff{"prompt": "hi"}')["body"] == {"prompt": "hi"}


def test_outside_of_the_command_nothing_is_read():
    frame = pd.DataFrame({"a": [1]})
    assert not is_cli()
    assert raw_input(frame) is frame


def test_a_command_of_another_program_is_not_ours(tmp_path):
    found = []

    @click.command()
    @click.option("--input-path")
    def predict(input_path):
        found.append((is_cli(), raw_input("untouched")))

    path = tmp_path / "payload.json"
    path.write_text('{"prompt": "hi"}')
    CliRunner().invoke(predict, ["--input-path", str(path)], catch_exceptions=False)
    assert found == [(False, "untouched")]


def test_every_command_of_deployments_is_the_cli(monkeypatch):
    found = []
    plugin = types.ModuleType("remembering")
    plugin.RememberingClient, plugin.run_local = RememberingClient, print
    plugin.target_help = lambda: found.append(is_cli()) or "help"
    monkeypatch.setitem(plugin_store.registry, "remembering", plugin)
    CliRunner().invoke(mlflow.deployments.cli.commands, ["help", "-t", "remembering"], catch_exceptions=False)
    assert found == [True]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"\xff\xfe", b"{"])
def test_what_is_no_json_holds_no_payload(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    assert read_payload(path) is None


def test_a_file_that_is_not_there_holds_no_payload(tmp_path):
    assert read_payload(tmp_path / "none") is None


@pytest.mark.parametrize(
    "payload",
    [
        {"prompt": "hi"},
        {"inputs": ["a", "b"], "params": {"k": 1}},
        {"messages": MESSAGES, "stop": ["a"]},
        {"messages": MESSAGES, "response_format": {"type": "text"}, "n": 1},
    ],
)
def test_one_object_is_a_row_where_pandas_finds_no_table(tmp_path, payload):
    path = tmp_path / "payload.json"
    path.write_text(json.dumps(payload))
    with pytest.raises(ValueError):  # else the hook is needed no more
        pd.read_json(path)
    assert lenient_read_json(pd.read_json)(str(path)).to_dict("records") == [payload]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["messages", "prompt", "inputs", "params", "stop", "created_at", "date"])


@given(payload=st.dictionaries(NAMES, VALUES, min_size=1))
def test_no_object_is_an_error(tmp_path_factory, payload):
    path = tmp_path_factory.getbasetemp() / "any_payload.json"
    path.write_text(json.dumps(payload))
    assert isinstance(lenient_read_json(pd.read_json)(str(path)), pd.DataFrame)


def test_what_pandas_reads_is_as_pandas_reads_it(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"a": ["1", "2"], "date": [1, 2]}')
    pd.testing.assert_frame_equal(lenient_read_json(pd.read_json)(str(path)), pd.read_json(str(path)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"{", "it holds no JSON: Expecting property name enclosed in double quotes at line 1, column 2."),
        (b"", "it holds no JSON: Expecting value at line 1, column 1."),
        (b"secret,b\n1,2\n", "it holds no JSON: Expecting value at line 1, column 1."),
        (b'{"prompt": "secret\xff"}', "it is not UTF-8 text."),
        (b"4711", "it must hold a JSON object, a list or a string."),
    ],
)
@pytest.mark.parametrize("name", ["none", "none.json"])
def test_what_cannot_be_read_is_told_in_one_line(predicted, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = predicted(path)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: -I {path}: {reason}\n")


def test_a_directory_is_told_in_one_line(predicted, tmp_path):
    result = predicted(tmp_path)
    assert (result.exit_code, result.stderr) == (1, f"Error: -I {tmp_path}: Is a directory\n")


@pytest.mark.parametrize("stock_error", [ValueError, FileNotFoundError])
def test_a_missing_file_is_the_same_for_every_pandas(tmp_path, stock_error):
    def read_json(path):
        raise stock_error(f"File {path} does not exist")  # older ones take the path for JSON, or have no errno

    with pytest.raises(click.ClickException) as caught:
        lenient_read_json(read_json)(str(tmp_path / "none"))
    assert caught.value.message == f"-I {tmp_path / 'none'}: {os.strerror(errno.ENOENT)}"


def test_what_is_no_file_keeps_the_error_of_pandas():
    with pytest.raises(ValueError) as stock:
        pd.read_json(io.StringIO("{"))
    with pytest.raises(ValueError) as lenient:
        lenient_read_json(pd.read_json)(io.StringIO("{"))
    assert str(lenient.value) == str(stock.value)

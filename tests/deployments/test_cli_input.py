"""`mlflow deployments predict` sends what the file says, though the command makes a table of it first."""

from __future__ import annotations

import json
import types

import mlflow.deployments.cli
import pandas as pd
import pytest
from click.testing import CliRunner
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
def predict(tmp_path, monkeypatch):
    """The request for a file with this text, by the stock command with pandas as our hook gives it."""
    plugin = types.ModuleType("remembering")
    plugin.RememberingClient, plugin.run_local, plugin.target_help = RememberingClient, print, print
    monkeypatch.setitem(plugin_store.registry, "remembering", plugin)
    monkeypatch.setattr(pd, "read_json", lenient_read_json(pd.read_json))

    def run(text: str, name: str = "payload.json") -> dict:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        arguments = ["predict", "-t", "remembering", "--name", "chat", "-I", str(path)]
        result = CliRunner().invoke(mlflow.deployments.cli.commands, arguments, catch_exceptions=False)
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
    ],
    ids=str,
)
def test_rows_keep_their_types(predict, content, body):
    assert predict(json.dumps(content))["body"] == body


def test_a_table_written_column_by_column_stays_the_table_that_pandas_reads(predict):
    body = predict(json.dumps({"question": {"0": "a", "1": "b"}}))["body"]
    assert body == {"dataframe_split": {"columns": ["question"], "data": [["a"], ["b"]]}}


def test_a_mark_at_the_beginning_of_the_file_does_no_harm(predict):
    assert predict('\ufeff{"prompt": "hi"}')["body"] == {"prompt": "hi"}


def test_outside_of_the_command_nothing_is_read():
    frame = pd.DataFrame({"a": [1]})
    assert not is_cli()
    assert raw_input(frame) is frame


def test_a_command_of_another_program_is_not_ours(tmp_path):
    import click

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


@pytest.mark.parametrize("content", ["{", "", "a,b\n1,2\n"])
def test_what_is_no_json_is_the_error_of_pandas(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ValueError) as stock:
        pd.read_json(str(path))
    with pytest.raises(ValueError) as lenient:
        lenient_read_json(pd.read_json)(str(path))
    assert str(lenient.value) == str(stock.value)


def test_missing_file_is_the_error_of_pandas(tmp_path):
    with pytest.raises(FileNotFoundError):
        lenient_read_json(pd.read_json)(str(tmp_path / "none"))

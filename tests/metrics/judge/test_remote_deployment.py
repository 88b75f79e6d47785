"""A deployment or an endpoint as a judge: typed decisions where its address is known, else a verdict by predict."""

from __future__ import annotations

import json

import mlflow.deployments
import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import YES_NO, Reply, a_question, remote_server


class Client:
    """A client of a target: what it was told to tell of its deployments and to answer."""

    def __init__(self, answer=None, deployments=None, traffic=None):
        self.answer = answer
        self.deployments = deployments or {}
        self.traffic = traffic
        self.asked = []

    def get_deployment(self, name):
        if name not in self.deployments:
            raise MlflowException(f"no deployment {name!r}", ErrorCode.Value("RESOURCE_DOES_NOT_EXIST"))
        return self.deployments[name]

    def get_endpoint(self, name):
        return {"name": name, "traffic": self.traffic}

    def predict(self, deployment_name=None, inputs=None, endpoint=None):
        self.asked.append((deployment_name, endpoint, inputs))
        return self.answer(inputs)


def written(inputs):
    verdict = "Yes" if "good" in inputs["messages"][0]["content"] else "No"
    return {"choices": [{"message": {"content": json.dumps({"verdict": verdict})}, "finish_reason": "stop"}]}


def systemone(body):
    return Reply({"answers": {"verdict": {"type": "noul", "noul": 0.75 if "good" in body["state"] else 0.25}}})


@pytest.fixture
def judge_of(monkeypatch):
    """A judge behind a client that the target `fake` has."""

    def make(client, uri="deployments:/d", **settings):
        targets = {"fake": client}
        monkeypatch.setattr(mlflow.deployments, "get_deploy_client", lambda target: targets[target])
        return backend_of({"uri": uri, "target": "fake", **settings})

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return make


def ask(judge, *texts):
    try:
        return judge.ask([a_question(text) for text in texts], progress=False)
    finally:
        judge.close()


@pytest.mark.parametrize("uri", ["deployments:/d", "endpoints:/e"])
def test_a_quantized_llm_is_asked_at_its_address_with_the_key_of_its_file(judge_of, uri, tmp_path):
    (tmp_path / "key").write_text("sk-file\n", encoding="utf-8")
    with remote_server(systemone=systemone) as server:
        described = {"flavor": "quantized_llm", "url": server.url[:-3], "api_key_file": str(tmp_path / "key")}
        client = Client(deployments={"d": described}, traffic={"d": 100, "old": 0})
        opinions = ask(judge_of(client, uri), "good", "bad")
    assert [opinion.choice for opinion in opinions] == [0, 1]
    assert all(opinion.logprobs for opinion in opinions)
    assert client.asked == []
    assert server.received[-1][2]["authorization"] == "Bearer sk-file"


@pytest.mark.parametrize(
    ("uri", "described", "traffic", "where"),
    [
        ("deployments:/d", {"flavor": "sklearn", "url": "http://127.0.0.1:9"}, None, ("d", None)),
        ("deployments:/d", {"name": "d"}, None, ("d", None)),
        ("endpoints:/e", {"flavor": "quantized_llm", "url": "http://127.0.0.1:9"}, {"d": 50, "x": 50}, (None, "e")),
        ("endpoints:/e", {}, None, (None, "e")),
    ],
)
def test_all_others_are_asked_by_predict_for_json(judge_of, uri, described, traffic, where):
    client = Client(written, {"d": described}, traffic)
    opinions = ask(judge_of(client, uri), "good", "bad", "good")
    assert [opinion.choice for opinion in opinions] == [0, 1, 0]
    assert {asked[:2] for asked in client.asked} == {where}
    schema = client.asked[0][2]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == [option.label for option in YES_NO]


def test_a_model_that_gives_a_text_a_row_is_read_too(judge_of):
    client = Client(lambda inputs: {"predictions": ['{"verdict": "No"}']}, {"d": {}})
    assert ask(judge_of(client), "x")[0].choice == 1


def failing(error):
    def answer(inputs):
        if "SECRET" in inputs["messages"][0]["content"]:
            raise error
        return written(inputs)

    return answer


def of_code(code):
    return MlflowException("SECRET was refused", ErrorCode.Value(code))


def of_status(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("SECRET", response=response)


def caused_by(cause, error):
    error.__cause__ = cause
    return error


def its_own_cause():
    error = ValueError("SECRET")
    return caused_by(caused_by(error, TypeError()), error)


def of_boto():
    """As botocore's ClientError, whose response is a dictionary."""
    error = OSError("SECRET")
    error.response = {"Error": {"Code": "ValidationError"}}
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (its_own_cause(), "the judge failed with ValueError"),
        (caused_by(of_boto(), of_code("BAD_REQUEST")), "the judge answered with HTTP status 400"),
        (of_code("INVALID_PARAMETER_VALUE"), "the judge answered with HTTP status 400"),
        (of_code("INTERNAL_ERROR"), "the judge answered with HTTP status 500"),
        (of_status(422), "the judge answered with HTTP status 422"),
        (ValueError("SECRET"), "the judge failed with ValueError"),
        (of_code("PERMISSION_DENIED"), "does not let this client in"),
    ],
)
def test_a_failing_row_leaves_the_others_alone_and_tells_nothing_of_it(judge_of, error, reason):
    opinions = ask(judge_of(Client(failing(error), {"d": {}})), "good", "SECRET", "bad")
    assert [opinion.choice for opinion in opinions] == [0, None, 1]
    assert reason in opinions[1].error
    assert "SECRET" not in opinions[1].error


def test_a_busy_deployment_is_asked_again(judge_of):
    restarting = caused_by(requests.ConnectionError("refused"), of_code("TEMPORARILY_UNAVAILABLE"))
    errors = [restarting, of_code("RESOURCE_EXHAUSTED"), of_status(503)]

    def answer(inputs):
        if errors:
            raise errors.pop()
        return written(inputs)

    assert ask(judge_of(Client(answer, {"d": {}})), "good")[0].choice == 0


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (of_code("PERMISSION_DENIED"), AccessDeniedError, "does not let this client in"),
        (of_code("RESOURCE_DOES_NOT_EXIST"), InvalidInputError, "Does it exist?"),
        (requests.ConnectionError("SECRET"), EngineUnavailableError, "cannot be reached. Is it running?"),
        (of_code("TEMPORARILY_UNAVAILABLE"), EngineUnavailableError, "Is it running?"),
    ],
)
def test_what_concerns_all_rows_is_raised_once(judge_of, error, kind, words):
    client = Client(failing(error), {"d": {}})
    with pytest.raises(kind) as told:
        ask(judge_of(client, deadline_s=0.1), "SECRET", "SECRET")
    assert words in str(told.value)
    assert "deployment_name='d'" in str(told.value)
    assert len(client.asked) == 1


def test_the_check_looks_a_deployment_up_and_asks_it_nothing(judge_of):
    client = Client(written, {"d": {}})
    judge_of(client).check()
    assert client.asked == []
    with pytest.raises(InvalidInputError, match="no deployment 'other'"):
        judge_of(client, "deployments:/other").check()
    with remote_server() as server:
        described = {"flavor": "quantized_llm", "url": server.url[:-3]}
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        judge_of(Client(deployments={"d": described}), deadline_s=0.2).check()


def test_a_client_that_repeats_the_question_in_its_error_changes_no_parameter(judge_of):
    def answer(inputs):
        text = inputs["messages"][0]["content"]
        if "temperature" in text:
            raise MlflowException(f"refused: {text}", ErrorCode.Value("INVALID_PARAMETER_VALUE"))
        return written(inputs)

    client = Client(answer, {"d": {}})
    ask(judge_of(client, max_in_flight=1), "good", "temperature", "good")
    assert all("temperature" in inputs for _, _, inputs in client.asked)


def test_a_name_that_nothing_has_is_told_in_the_clients_words(judge_of):
    with pytest.raises(InvalidInputError, match="deployments:/d of target 'fake': no deployment 'd'"):
        ask(judge_of(Client(written)), "x")


def test_a_target_that_does_not_exist_is_told():
    with pytest.raises(InvalidInputError, match="the deployments target 'nowhere' cannot be used"):
        ask(backend_of({"uri": "deployments:/d", "target": "nowhere"}), "x")


def test_the_target_is_that_of_the_environment_or_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_LLM_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_DEPLOYMENTS_TARGET", raising=False)
    judge = backend_of("deployments:/d")
    assert judge.describe()["target"] == "local"
    with pytest.raises(InvalidInputError, match="'d'"):
        ask(judge, "x")
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "databricks")
    assert backend_of("deployments:/d").describe()["target"] == "databricks"

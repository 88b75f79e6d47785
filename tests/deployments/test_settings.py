"""Settings of deployments and endpoints, as Python and as a command line give them."""

from __future__ import annotations

import traceback

import pytest

from mlflow_llm_plugins.deployments.settings import DeploymentConfig, EndpointConfig
from mlflow_llm_plugins.errors import InvalidInputError


def parsed(**raw) -> DeploymentConfig:
    return DeploymentConfig.parse(raw, "config")


@pytest.mark.parametrize(
    ("key", "given", "field", "expected"),
    [
        ("port", "5001", "port", 5001),
        ("workers", "2", "workers", 2),
        ("generate_api_key", "true", "generate_api_key", True),
        ("ready_timeout_s", "1.5", "ready_timeout_s", 1.5),
        ("devices", "0,1", "devices", "0,1"),
        ("devices", [0, 1], "devices", "0,1"),
        ("devices", 0, "devices", "0"),
        ("model_config", '{"max_new_tokens": 8}', "serving_config", {"max_new_tokens": 8}),
        ("model_config", {"max_new_tokens": 8}, "serving_config", {"max_new_tokens": 8}),
        ("model_config", "quantization=int8", "serving_config", {"quantization": "int8"}),
        ("environment", "A=1,B=x=y", "environment", {"A": "1", "B": "x=y"}),
        ("environment", {"A": 1}, "environment", {"A": "1"}),
        ("labels", '{"team": "search"}', "labels", {"team": "search"}),
        ("MLFLOW_DEPLOYMENT_FLAVOR", "transformers", "flavor", "transformers"),
        ("port", "", "port", None),
    ],
)
def test_values_are_read_from_python_and_from_strings(key, given, field, expected):
    assert getattr(parsed(**{key: given}), field) == expected


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"prot": "5001"}, "unknown key 'prot'. Did you mean 'port'?"),
        ({"port": "0"}, "port='0': Input should be greater than or equal to 1"),
        ({"port": "70000"}, "port='70000': Input should be less than or equal to 65535"),
        ({"strategy": "rolling"}, "strategy='rolling': Input should be 'blue_green' or 'recreate'"),
        ({"env_manager": "docker"}, "env_manager='docker'"),
        ({"environment": "A"}, 'must be a JSON object such as {"a": 1}, or a=1,b=2'),
        ({"model_config": "{"}, "must be a JSON object"),
        ({"model_config": "[1]"}, "must be a JSON object"),
        ({"api_key_file": "~nobody-of-this-name/k"}, "api_key_file="),
        ({"labels": "a=1,b=2,a=3"}, "one of the names stands there twice"),
        ({"devices": "[0,"}, "devices="),
        ({"api_key_file": "k", "generate_api_key": True}, "give either api_key_file or generate_api_key=true"),
    ],
)
def test_wrong_settings_are_refused_in_words_that_help(raw, said):
    with pytest.raises(InvalidInputError) as refused:
        parsed(**raw)
    assert said in str(refused.value)


@pytest.mark.parametrize("given", ["0,1", "[0, 1]", [0, 1], "[0,1]"])
def test_devices_are_read_in_each_of_their_forms(given):
    assert parsed(devices=given).devices == "0,1"


def test_what_is_no_dictionary_is_not_repeated():
    with pytest.raises(InvalidInputError, match=r"^config must be a dictionary, got str\.$"):
        DeploymentConfig.parse("api_key=sk-very-secret", "config")


def test_a_key_in_the_arguments_is_refused_without_repeating_it():
    with pytest.raises(InvalidInputError, match="api_key_file=PATH, or generate_api_key=true") as refused:
        parsed(api_key="sk-very-secret", port=1)
    assert "sk-very-secret" not in str(refused.value)


@pytest.mark.parametrize("raw", [{"environment": "HF_TOKEN=hf_secret,X"}, {"environment": {"A=B": "hf_secret"}}])
def test_values_of_environment_variables_are_not_repeated(raw):
    with pytest.raises(InvalidInputError, match="environment: ") as refused:
        parsed(**raw)
    shown = "".join(traceback.format_exception(refused.value))
    assert "hf_secret" not in shown.replace(repr(raw), "")


@pytest.mark.parametrize("name", ["ready_timeout_s", "drain_timeout_s", "request_timeout_s", "restart_backoff_s"])
@pytest.mark.parametrize("value", ["inf", float("inf"), "nan"])
def test_times_have_an_end(name, value):
    with pytest.raises(InvalidInputError, match=name):
        parsed(**{name: value})


def test_what_was_given_is_kept_as_json_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = parsed(port="5001", api_key_file="keys", labels="a=1", model_config='{"x": 1}', workers="").given()
    assert given == {
        "port": 5001,
        "api_key_file": str(tmp_path / "keys"),
        "labels": {"a": "1"},
        "model_config": {"x": 1},
    }
    with pytest.raises(InvalidInputError, match="must hold what JSON can hold"):
        parsed(model_config={"x": object()}).given()
    with pytest.raises(InvalidInputError, match="labels"):
        parsed(labels={"x": object()})


def test_none_is_not_given():
    assert parsed(port=None, host=None, labels=None, environment={"A": None, "B": "1"}).given() == {
        "environment": {"A": None, "B": "1"}
    }


def test_unknown_keys_name_those_that_are_known_as_users_write_them():
    with pytest.raises(InvalidInputError) as refused:
        parsed(model_conf="{}")
    assert "Did you mean 'model_config'?" in str(refused.value)
    assert "serving_config" not in str(refused.value)


@pytest.mark.parametrize("given", ["a=90,b=10", '{"a": 90, "b": 10}', {"a": 90, "b": 10}, {"a": "90", "b": "10"}])
def test_traffic_is_read_in_each_of_its_forms(given):
    assert EndpointConfig.parse({"traffic": given}, "config").traffic == {"a": 90.0, "b": 10.0}


@pytest.mark.parametrize("given", ["a=-1", "a=nan", "a=inf", "a=1e300", "a=many", "a", "a=1,a=2"])
def test_shares_that_are_none_are_refused(given):
    with pytest.raises(InvalidInputError, match="traffic"):
        EndpointConfig.parse({"traffic": given}, "config")

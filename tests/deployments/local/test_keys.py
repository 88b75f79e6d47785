"""API keys: where they may come from, and who is let in without one."""

from __future__ import annotations

import stat

import pytest

from mlflow_llm_plugins.deployments.local.keys import check_exposure, config_with_keys, is_loopback, provide_key
from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError


def settings(**raw) -> DeploymentConfig:
    return DeploymentConfig.parse(raw, "config")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_addresses_of_this_machine_alone_need_no_key(host):
    assert is_loopback(host)
    check_exposure(settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_others_are_let_in_with_a_key_or_on_purpose_only(host):
    with pytest.raises(InvalidInputError, match=r"generate_api_key=true.*insecure=true"):
        check_exposure(settings(host=host))
    check_exposure(settings(host=host, insecure=True))
    check_exposure(settings(host=host, generate_api_key=True))


def test_a_key_is_made_once_and_only_its_owner_can_read_it(recorded):
    folder = recorded()
    provide_key(folder, settings(generate_api_key=True))
    key = folder.api_key.read_text()
    assert len(key.strip()) >= 40
    assert stat.S_IMODE(folder.api_key.stat().st_mode) == 0o600
    provide_key(folder, settings(generate_api_key=True))
    assert folder.api_key.read_text() == key


@pytest.mark.parametrize("content", [None, "", "# no key\n\n"])
def test_a_file_without_a_key_is_refused_before_anything_starts(recorded, tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInputError, match="keys"):
        provide_key(recorded(), settings(api_key_file=path))


def test_servers_that_ask_for_no_key_get_none(model):
    other = model.model_copy(update={"is_ours": False, "flavor": "sklearn"})
    with pytest.raises(UnsupportedFeatureError, match="flavor sklearn asks for no API key"):
        config_with_keys({"generate_api_key": True}, other, {})
    assert config_with_keys({}, other, {"MLFLOW_LLM_API_KEY": "k"}) == {}


def test_the_shells_file_of_keys_is_taken_over(model):
    assert config_with_keys({"port": 1}, model, {"MLFLOW_LLM_API_KEY_FILE": "/k"}) == {"port": 1, "api_key_file": "/k"}
    given = {"generate_api_key": True}
    assert config_with_keys(given, model, {"MLFLOW_LLM_API_KEY_FILE": "/k"}) == given


def test_a_key_in_the_shell_is_neither_dropped_nor_spread(model):
    with pytest.raises(InvalidInputError, match="reads its keys from a file") as refused:
        config_with_keys({}, model, {"MLFLOW_LLM_API_KEY": "sk-1"})
    assert "sk-1" not in str(refused.value)


@pytest.mark.parametrize("name", ["MLFLOW_LLM_API_KEY", "MLFLOW_LLM_API_KEY_FILE"])
def test_keys_do_not_come_by_the_environment_of_a_server(name):
    with pytest.raises(InvalidInputError, match=f"{name} has settings of its own") as refused:
        DeploymentConfig.parse({"environment": {name: "sk-1"}, "generate_api_key": True}, "config")
    assert "sk-1" not in str(refused.value)

"""What is told of deployments: the truth, also after what their records do not know of."""

from __future__ import annotations

import os
import time

import pytest

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.local.records import Refusal
from mlflow_llm_plugins.deployments.local.view import View


def state_of(folder) -> tuple[str, str]:
    return View.of(folder).state()


def test_a_folder_that_is_not_there_is_no_deployment(home):
    assert View.of(home.folder("chat")) is None


@pytest.mark.parametrize("state", ["ready", "unhealthy", "restarting", "starting"])
def test_a_supervisor_that_ended_without_a_word_is_lost(recorded, state):
    shown, reason = state_of(recorded(status={"state": state}))
    assert (shown, reason) == ("lost", "supervisor lost: its process was ended from outside")


def test_a_reboot_is_told_apart_from_a_lost_supervisor(recorded, gone):
    of_another_boot = gone.model_copy(update={"boot": "earlier"})
    assert state_of(recorded(status={"state": "ready", "supervisor": of_another_boot})) == ("stopped", "reboot")


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_the_last_word_of_a_supervisor_stands(recorded, state):
    assert state_of(recorded(status={"state": state, "reason": "because"})) == (state, "because")


def test_a_living_supervisor_is_believed(recorded, holder):
    folder = recorded(status={"state": "ready"})
    holder(folder.life_lock)
    assert state_of(folder) == ("ready", "")


def test_a_supervisor_that_has_not_written_yet_is_starting(recorded, holder):
    folder = recorded()
    holder(folder.life_lock)
    assert state_of(folder)[0] == "starting"


def test_a_creation_that_is_under_way_is_starting(recorded, holder):
    folder = recorded(spec={"model": None})
    holder(folder.command_lock)
    assert state_of(folder) == ("starting", "a command prepares its model")
    assert View.of(folder).is_claimed


def test_a_creation_whose_command_was_killed_is_lost(recorded):
    folder = recorded(spec={"model": None})
    assert state_of(folder) == ("lost", "the command that was to start it ended too early")
    assert not View.of(folder).is_claimed


@pytest.mark.parametrize("name", ["spec", "status"])
def test_a_damaged_record_is_told(recorded, name):
    folder = recorded(status={"state": "ready"})
    getattr(folder, name).write_text("{")
    state, reason = state_of(folder)
    assert state == "lost"
    assert f"{name}.json is damaged" in reason


def test_all_is_shown_but_secrets(recorded, holder, tmp_path):
    me = ProcessIdentity.own()
    folder = recorded(
        spec={"config": {"environment": {"HF_TOKEN": "hf_secret"}, "generate_api_key": True, "labels": "team=x"}},
        status={
            "state": "ready",
            "supervisor": me,
            "server": [me],
            "ready_since": time.time() - 10,
            "restarts": 2,
            "last_error": "boom",
            "refused": Refusal(generation=4, error="no"),
        },
    )
    holder(folder.life_lock)
    shown = View.of(folder).describe()
    assert "hf_secret" not in str(shown)
    assert shown["config"]["environment"] == ["HF_TOKEN"]
    assert shown["status"] == "ready"
    assert shown["url"] == "http://127.0.0.1:5001"
    assert (shown["model_uri"], shown["resolved_model_uri"]) == ("models:/m@a", "models:/m/3")
    assert shown["flavor"] == "quantized_llm"
    assert shown["pids"] == [os.getpid()]
    assert shown["memory_bytes"] > 10**6
    assert 9 < shown["uptime_s"] < 60
    assert (shown["restarts"], shown["last_error"], shown["refused_update"]) == (2, "boom", "no")
    assert shown["labels"] == {"team": "x"}
    assert shown["api_key_file"] == str(folder.api_key)


def test_a_dead_deployment_shows_no_processes(recorded):
    shown = View.of(recorded(status={"state": "ready", "server": [ProcessIdentity.own()]})).describe()
    assert (shown["pids"], shown["memory_bytes"], shown["uptime_s"], shown["supervisor_pid"]) == ([], 0, None, None)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5001"),
        ("0.0.0.0", "http://127.0.0.1:5001"),
        ("::1", "http://[::1]:5001"),
        ("::", "http://[::1]:5001"),
        ("localhost", "http://localhost:5001"),
    ],
)
def test_the_url_can_be_connected_to_from_here(recorded, host, url):
    assert View.of(recorded(spec={"config": {"host": host}}, status={})).url == url


def test_only_a_supervised_deployment_has_an_address(recorded, holder):
    folder = recorded(status={"state": "restarting"})
    assert View.of(folder).address() is None
    holder(folder.life_lock)
    address = View.of(folder).address()
    assert (address.url, address.is_ours, address.api_key_file) == ("http://127.0.0.1:5001", True, None)


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_deployment_that_only_ends_what_is_open_has_no_address(recorded, holder, state):
    folder = recorded(status={"state": state, "reason": "stopped by SIGTERM", "server": [ProcessIdentity.own()]})
    holder(folder.life_lock)
    assert View.of(folder).address() is None
    shown = View.of(folder).describe()
    assert (shown["status"], len(shown["pids"])) == (state, 1)
    assert shown["reason"] == "stopped by SIGTERM; it ends what is open"


@pytest.mark.parametrize(
    ("named", "shown"),
    [(None, "nf4"), ("int8", "int8"), ({"method": "fp4"}, "fp4"), ("none", None)],
)
def test_the_quantization_is_that_which_is_served(recorded, model, named, shown):
    own = {"model": model.model_copy(update={"quantization": "nf4"})}
    config = {} if named is None else {"model_config": {"quantization": named}}
    assert View.of(recorded(spec={**own, "config": config}, status={})).describe()["quantization"] == shown


def test_the_processes_of_a_start_are_shown(recorded, holder):
    folder = recorded(status={"state": "starting", "starting": [ProcessIdentity.own()]})
    holder(folder.life_lock)
    assert len(View.of(folder).describe()["pids"]) == 1

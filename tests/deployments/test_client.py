"""The client: MLflow's verbs on records, without a server; how errors reach those who use MLflow."""

from __future__ import annotations

import ast
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.deployments import get_deploy_client, set_deployments_target
from mlflow.deployments.cli import commands
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins.deployments.local.home import HOME, Home
from tests.deployments.fake_server import answer, fake_server
from tests.deployments.local.conftest import gone, holder, model, recorded  # noqa: F401


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv(HOME, str(tmp_path / "state"))
    made = Home(tmp_path / "state")
    made.make()
    return made


@pytest.fixture
def client(home):
    return get_deploy_client("local")


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(commands, list(arguments))
    assert done.exit_code == status, done.output
    return done.output


@pytest.mark.parametrize("uri", ["local", "local:/some/where", "local://name"])
def test_each_form_of_the_target_gives_a_client(home, uri):
    assert get_deploy_client(uri).target_uri == uri


def test_the_target_can_be_set_for_the_process_or_by_a_variable(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "local")
    assert type(get_deploy_client()).__name__ == "LLMDeploymentClient"
    monkeypatch.setattr("mlflow.deployments.utils._deployments_target", None)  # MLflow has no way to unset it
    set_deployments_target("local://staging")
    assert get_deploy_client().target_uri == "local://staging"


def test_a_new_state_directory_has_nothing(client):
    assert client.list_deployments() == []
    assert client.list_endpoints() == []


def test_a_taken_port_is_refused_before_the_model_is_looked_for(client, home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(MlflowException, match=f"port {port} on 127.0.0.1 is taken by another") as error:
            client.create_deployment("chat", "models:/none/1", config={"port": port})
    assert error.value.error_code == "INVALID_PARAMETER_VALUE"
    assert list(home.deployments.iterdir()) == []


def test_a_taken_name_is_told_before_its_port(client, recorded, holder):  # noqa: F811
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        port = own.getsockname()[1]
        holder(recorded("chat", status={"state": "ready", "port": port}).life_lock)
        with pytest.raises(MlflowException, match="'chat' exists already and is ready") as error:
            client.create_deployment("chat", "models:/none/1", config={"port": port})
    assert error.value.error_code == "RESOURCE_ALREADY_EXISTS"


@pytest.mark.parametrize("host", ["a..b", "no such host"])
def test_a_host_that_is_none_is_refused(client, host):
    with pytest.raises(MlflowException, match=f"host {host} cannot be listened on"):
        client.create_deployment("chat", "models:/none/1", config={"host": host, "insecure": True})


def test_a_host_that_is_not_here_is_refused_before_the_model_is_looked_for(client):
    with pytest.raises(MlflowException, match=r"host 192\.0\.2\.1 cannot be listened on"):
        client.create_deployment("chat", "models:/none/1", config={"host": "192.0.2.1", "insecure": True})


def test_a_deletion_names_the_settings_that_it_does_not_have_without_their_values(client):
    with pytest.raises(MlflowException, match=r"a deletion has no settings, got api_key\.") as error:
        client.delete_deployment("chat", config={"api_key": "sk-1"})
    assert "sk-1" not in str(error.value)


def test_an_endpoint_asks_those_that_are_ready_first(client, recorded, holder):  # noqa: F811
    with fake_server(answer({"predictions": ["here"]})) as server:
        for name, state, port in (("a", "ready", server.server_port), ("b", "starting", 1), ("c", "stopped", 1)):
            holder(recorded(name, status={"state": state, "port": port}).life_lock)
        client.create_endpoint("e", {"traffic": "a=1,b=500,c=500"})
        assert client.predict(endpoint="e", inputs={"inputs": ["x"]})["predictions"] == ["here"]


def test_deleting_what_is_not_there_is_no_error(client):
    client.delete_deployment("none")
    client.delete_endpoint("none")
    assert (client.list_deployments(), client.list_endpoints()) == ([], [])


def test_what_is_not_there_is_not_found(client, recorded):  # noqa: F811
    recorded("chat")
    with pytest.raises(MlflowException, match=r"no deployment 'chta'.*Did you mean 'chat'") as error:
        client.get_deployment("chta")
    assert error.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(MlflowException, match="no deployment 'none'"):
        client.update_deployment("none")
    with pytest.raises(MlflowException, match="no endpoint 'none'"):
        client.create_deployment("chat2", "models:/x/1", endpoint="none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "a/b", "model_uri": "m"}, "deployment name 'a/b'"),
        ({"name": "a", "model_uri": None}, "model_uri must be"),
        ({"name": "a", "model_uri": "m", "config": {"prot": 1}}, "unknown key 'prot'. Did you mean 'port'"),
        ({"name": "a", "model_uri": "m", "config": {"api_key": "k"}}, "api_key is not taken here"),
        ({"name": "a", "model_uri": "m", "config": {"host": "0.0.0.0"}}, "generate_api_key=true"),
        ({"name": "a", "model_uri": "/no/such/model"}, "/no/such/model"),
    ],
)
def test_a_creation_that_cannot_be_is_refused_and_leaves_nothing(client, home, arguments, said):
    with pytest.raises(MlflowException, match="(?s)" + said.replace("(", r"\(")):
        client.create_deployment(**arguments)
    assert list(home.deployments.iterdir()) == []


def test_a_flavor_that_the_model_does_not_have_is_refused(client, home, tmp_path):
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=lambda model_input: model_input, pip_requirements=[])
    with pytest.raises(MlflowException, match=r"has no flavor 'transformers'. It has python_function"):
        client.create_deployment("a", str(tmp_path / "m"), config={"MLFLOW_DEPLOYMENT_FLAVOR": "transformers"})


def test_a_stopped_deployment_says_so_to_those_who_ask_it(client, recorded):  # noqa: F811
    recorded("chat", status={"state": "ready"})
    with pytest.raises(MlflowException, match=r"is lost .supervisor lost") as error:
        client.predict("chat", {"prompt": "x"})
    assert error.value.error_code == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize("arguments", [{}, {"deployment_name": "a", "endpoint": "b"}])
def test_a_prediction_needs_one_address(client, arguments):
    with pytest.raises(MlflowException, match="either a deployment's name or an endpoint"):
        client.predict(inputs={"prompt": "x"}, **arguments)


def test_deployments_are_listed_by_endpoint(client, recorded):  # noqa: F811
    recorded("a")
    recorded("b")
    client.create_endpoint("e", {"traffic": "a=1"})
    assert [deployment["name"] for deployment in client.list_deployments()] == ["a", "b"]
    assert [deployment["name"] for deployment in client.list_deployments(endpoint="e")] == ["a"]
    assert client.get_deployment("a", endpoint="e")["name"] == "a"
    with pytest.raises(MlflowException, match="'b' is not under endpoint 'e'"):
        client.get_deployment("b", endpoint="e")
    with pytest.raises(MlflowException, match="'b' is not under endpoint 'e'"):
        client.delete_deployment("b", endpoint="e")
    client.delete_deployment("none", endpoint="e")
    client.delete_deployment("a")
    assert client.get_endpoint("e")["traffic"] == {}
    with pytest.raises(MlflowException, match="No deployment with traffic under endpoint 'e' is running"):
        client.predict(endpoint="e", inputs={"prompt": "x"})


def test_a_hundred_deployments_are_listed_within_a_second(client, recorded):  # noqa: F811
    for number in range(100):
        recorded(f"d{number}", status={"state": "ready"})
    began = time.perf_counter()
    assert len(client.list_deployments()) == 100
    print(f"{time.perf_counter() - began:.3f} s")


def test_a_state_that_cannot_be_used_is_told_with_the_remedy(client, home):
    shutil.rmtree(home.endpoints)
    home.endpoints.write_text("in the way")
    with pytest.raises(MlflowException, match=r"state .*cannot .*Set MLFLOW_LLM_HOME to a directory"):
        client.create_endpoint("e")


@pytest.mark.parametrize("content", ["", "[1]", "a: [", "flavors: 3"])
def test_a_damaged_model_is_refused_in_one_line(client, home, tmp_path, content):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "MLmodel").write_text(content)
    with pytest.raises(MlflowException, match="/m cannot be read: "):
        client.create_deployment("a", str(tmp_path / "m"))
    assert client.list_deployments() == []


def test_commands_print_one_line_instead_of_a_traceback(home, recorded):  # noqa: F811
    at = ("-t", "local")
    said = run("get", *at, "--name", "none", status=1)
    assert said.startswith("Error: There is no deployment 'none'")
    said = run("create", *at, "--name", "a", "-m", "/no/such", "-C", "prot=1", status=1)
    assert said.startswith("Error: config: unknown key 'prot'")
    assert run("list", "-t", "local:relative", status=1).startswith("Error: Target 'local:relative': must be local")
    assert "Deployment none is deleted" in run("delete", *at, "--name", "none")
    recorded("chat", status={"state": "failed", "reason": "because"})
    assert "status: failed\nreason: because" in run("get", *at, "--name", "chat")
    assert [found["name"] for found in ast.literal_eval(run("list", *at).partition("\n")[2].strip())] == ["chat"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "-t", "local"),
        ("create", "-t", "local", "--name", "a"),
        ("help",),
        ("get", "-t", "local"),
    ],
)
def test_missing_arguments_are_a_usage_error(home, arguments):
    run(*arguments, status=2)


def test_endpoints_have_their_commands(home, recorded):  # noqa: F811
    recorded("a")
    at = ("-t", "local", "--endpoint", "e")
    assert "Endpoint e is created" in run("create-endpoint", *at, "-C", "traffic=a=1")
    assert "traffic: {'a': 1.0}" in run("get-endpoint", *at)
    assert "Endpoint e is updated" in run("update-endpoint", *at, "-C", "traffic=a=2")
    assert "'name': 'e'" in run("list-endpoints", "-t", "local")
    assert "Endpoint e is deleted" in run("delete-endpoint", *at)


def test_help_is_made_from_the_settings(home):
    said = run("help", "-t", "local")
    assert "\n  port " in said
    assert "One of local, virtualenv, uv, conda. Default: local." in said


def test_explanations_are_refused_with_what_to_do(client):
    with pytest.raises(MlflowException, match=r"mlflow.shap"):
        client.explain("a")


WITHOUT_POSIX = """
import pkgutil, sys
import mlflow.deployments, psutil  # which have modules of their own for Windows

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
import mlflow_llm_plugins.deployments as package

for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    __import__(module.name)
from mlflow.deployments import get_deploy_client

print(get_deploy_client("local").list_deployments())
try:
    get_deploy_client("local").create_deployment("a", "m")
except Exception as error:
    print(error)
"""


def test_without_posix_all_is_imported_and_a_creation_refused(home):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[]\nThe deployment target `local` needs a POSIX system (fcntl and signals)")

"""What happens to deployments: killed processes, races, taken ports, places that cannot be written."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins.deployments.local.home import Home
from mlflow_llm_plugins.deployments.local.records import Status, read_record, write_record
from tests.e2e.deployments.conftest import processes_with
from tests.e2e.serving import wait_for

pytestmark = pytest.mark.slow

BACK_S = 60  # a start of `mlflow models serve` on a busy machine, and the back-off
ROW = {"inputs": ["x"]}


def server_pid(client, name: str) -> int:
    """Of the process that answers."""
    return client.predict(name, ROW)["predictions"][0][1]


def kill_supervisor(client, name: str) -> None:
    """And wait for its end: its main thread may end, and with it the server, before the last one frees the lock."""
    supervisor = psutil.Process(client.get_deployment(name)["supervisor_pid"])
    supervisor.kill()
    supervisor.wait(30)


def test_a_killed_server_comes_back_and_pending_requests_fail_fast(client, deployed, trivial, tmp_path):
    asked = tmp_path / "asked"
    deployed("a", trivial("one"), restart_backoff_s=0.5, environment={"ASKED": str(asked)})
    first = server_pid(client, "a")
    failures: list[float] = []

    def ask() -> None:
        began = time.monotonic()
        with pytest.raises(MlflowException):
            client.predict("a", {"inputs": ["sleep"]})
        failures.append(time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(asked.exists)
    os.kill(first, signal.SIGKILL)
    thread.join(20)
    assert len(failures) == 1
    assert failures[0] < 15
    wait_for(lambda: client.get_deployment("a")["restarts"] == 1, BACK_S)
    assert server_pid(client, "a") != first  # waits for the new server at the same address
    shown = client.get_deployment("a")
    assert (shown["status"], shown["restarts"]) == ("ready", 1)
    assert "SIGKILL" in shown["last_error"]


def test_a_killed_supervisor_takes_its_server_along_and_update_recovers(client, deployed, trivial, home):
    url = deployed("a", trivial("one"))["url"]
    kill_supervisor(client, "a")
    wait_for(lambda: not processes_with(str(trivial("one"))), 30)
    shown = client.get_deployment("a")
    assert shown["status"] == "lost"
    assert "supervisor lost" in shown["reason"]
    with pytest.raises(MlflowException, match=r"is lost.*deployments update -t local --name a"):
        client.predict("a", ROW)
    assert client.update_deployment("a")["url"] == url
    assert client.predict("a", ROW)["predictions"][0][0] == "one"


def test_a_dead_deployment_that_cannot_be_started_as_asked_remembers_what_worked(client, deployed, trivial):
    deployed("a", trivial("one"))
    kill_supervisor(client, "a")
    with pytest.raises(MlflowException, match="these weights are broken"):
        client.update_deployment("a", str(trivial("broken")))
    shown = client.get_deployment("a")
    assert (shown["status"], shown["model_uri"]) == ("failed", str(trivial("one")))
    assert "these weights are broken" in shown["last_error"]
    client.update_deployment("a")
    assert client.predict("a", ROW)["predictions"][0][0] == "one"


def test_a_dead_deployment_forgets_what_was_refused_before_it_died(client, deployed, trivial):
    deployed("a", trivial("one"))
    with pytest.raises(MlflowException, match=r"is refused.*these weights are broken"):
        client.update_deployment("a", str(trivial("broken")), config={"labels": {"version": "broken"}})
    kill_supervisor(client, "a")
    with pytest.raises(MlflowException, match="cannot be read"):
        client.update_deployment("a", "runs:/none/model")
    with pytest.raises(MlflowException, match="not ready after 1 s"):
        client.update_deployment("a", str(trivial("slow")), config={"ready_timeout_s": 1})
    shown = client.get_deployment("a")
    assert (shown["model_uri"], shown["labels"]) == (str(trivial("one")), {})
    client.update_deployment("a")
    assert client.predict("a", ROW)["predictions"][0][0] == "one"


def test_a_create_that_is_killed_goes_on_without_the_command(client, trivial, home):
    command = [sys.executable, "-m", "mlflow", "deployments", "create", "-t", "local", "--name", "a"]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([*command, "-m", str(trivial("one"))], stdout=nowhere, stderr=nowhere)
    folder = Home(home).folder("a")
    wait_for(folder.status.exists, 60)
    process.kill()
    process.wait(30)
    wait_for(lambda: client.get_deployment("a")["status"] == "ready", 60)
    assert client.predict("a", ROW)["predictions"][0][0] == "one"
    client.delete_deployment("a")


def test_of_two_creates_at_once_one_wins(client, trivial):
    outcomes: list[str] = []

    def create() -> None:
        try:
            client.create_deployment("a", str(trivial("one")))
            outcomes.append("created")
        except MlflowException as error:
            outcomes.append(error.message)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    lost, won = sorted(outcomes)
    assert won == "created" or lost == "created"
    assert any("exists already" in outcome for outcome in outcomes)
    assert client.predict("a", ROW)["predictions"][0][0] == "one"
    client.delete_deployment("a")


def test_a_slow_model_is_waited_for_and_a_too_slow_one_is_not(client, deployed, trivial):
    with pytest.raises(MlflowException, match=r"not ready.* 3 s"):
        deployed("a", trivial("slow"), ready_timeout_s=3)
    assert client.list_deployments() == []
    assert deployed("b", trivial("slow"))["status"] == "ready"


def test_a_taken_port_is_an_error_before_the_model_is_loaded(client, trivial):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(MlflowException, match=f"port {port} on 127.0.0.1 is taken"):
            client.create_deployment("a", str(trivial("one")), config={"port": port})
        assert time.monotonic() - began < 10
    assert client.list_deployments() == []


def test_a_pid_that_another_program_got_is_never_killed(client, deployed, trivial, home):
    deployed("a", trivial("one"))
    kill_supervisor(client, "a")
    wait_for(lambda: not processes_with(str(trivial("one"))), 30)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = Home(home).folder("a")
    status = read_record(Status, folder.status)
    as_if = status.supervisor.model_copy(update={"pid": bystander.pid})
    write_record(status.model_copy(update={"supervisor": as_if, "server": [as_if]}), folder.status)
    assert client.get_deployment("a")["status"] == "lost"
    client.delete_deployment("a")
    assert bystander.poll() is None
    bystander.communicate(timeout=30)


def test_a_new_version_that_does_not_load_leaves_the_old_one_serving(client, deployed, trivial):
    deployed("a", trivial("one"))
    before = server_pid(client, "a")
    with pytest.raises(MlflowException, match=r"is refused.*these weights are broken"):
        client.update_deployment("a", str(trivial("broken")))
    assert server_pid(client, "a") == before
    shown = client.get_deployment("a")
    assert (shown["status"], shown["model_uri"]) == ("ready", str(trivial("one")))
    assert "these weights are broken" in shown["refused_update"]
    client.update_deployment("a", str(trivial("two")), config={"strategy": "recreate"})
    assert client.predict("a", ROW)["predictions"][0][0] == "two"


def test_ten_deployments_in_a_row_leave_nothing(client, trivial, home):
    client.create_deployment("warm", str(trivial("one")))
    client.delete_deployment("warm")
    me = psutil.Process()
    files, children = me.num_fds(), len(me.children(recursive=True))
    for _ in range(10):
        client.create_deployment("a", str(trivial("one")))
        client.delete_deployment("a")
    assert processes_with(str(home)) == []
    assert list((home / "deployments").iterdir()) == []
    assert me.num_fds() <= files + 1
    assert len(me.children(recursive=True)) <= children


def test_no_key_is_seen_anywhere_but_in_its_file(client, deployed, chat_model, home):
    shown = deployed("a", chat_model, generate_api_key=True)
    key = Path(shown["api_key_file"]).read_text().strip()
    assert os.stat(shown["api_key_file"]).st_mode & 0o777 == 0o600
    assert httpx.post(f"{shown['url']}/v1/completions", json={"prompt": "A"}).status_code == 401
    assert client.predict("a", {"prompt": "A"})["predictions"]
    for process in processes_with(str(home)) + processes_with(str(chat_model)):
        assert key not in " ".join(process.cmdline())
        assert key not in str(process.environ())
    for path in home.rglob("*"):
        if path.is_file() and str(path) != shown["api_key_file"]:
            assert key.encode() not in path.read_bytes(), path
    assert key not in str(client.get_deployment("a"))
    Path(shown["api_key_file"]).write_text("another-key\n")
    with pytest.raises(MlflowException, match="api_key_file") as refused:
        client.predict("a", {"prompt": "A"})
    assert "another-key" not in str(refused.value)

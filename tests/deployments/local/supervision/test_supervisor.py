"""The process of a deployment: started, signalled in every state, killed, and what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from mlflow_llm_plugins.deployments.local.life_lock import holder, is_held
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from tests.e2e.serving import free_port, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes as Linux has them")

WAIT_S = 20


def test_a_deployment_serves_and_tells_what(chat):
    chat.begin()
    assert chat.get() == "one"
    status = chat.status
    assert (status.reason, status.phase, status.last_error, status.restarts) == ("", "", "", 0)
    assert status.serving == chat.spec
    assert status.supervisor == ProcessIdentity.of(chat.process.pid)
    assert {one.pid for one in status.server} == {process.pid for process in chat.processes()}
    assert status.ready_since is not None
    assert is_held(chat.folder.life_lock)
    assert holder(chat.folder.life_lock) == status.supervisor


def test_a_stop_leaves_nothing_running_and_says_so(chat):
    chat.begin()
    assert chat.stop() == 0
    assert (chat.status.state, chat.status.reason) == ("stopped", "stopped by SIGTERM")
    assert chat.status.server == []
    assert chat.processes() == []
    assert not is_held(chat.folder.life_lock)


def test_a_stop_lets_the_open_request_end(chat):
    chat.tell("held")
    chat.begin(drain_timeout_s=WAIT_S)
    with chat.open_request() as answer:
        chat.signal(signal.SIGTERM)
        wait_for(lambda: not takes_connections(chat.status.port), WAIT_S)
        assert (chat.status.state, chat.status.reason) == ("stopped", "stopped by SIGTERM")  # it takes no more
        assert chat.status.server  # which still answers
        chat.untell("held")
        assert answer.result(WAIT_S) == "one"
    assert chat.exit_status() == 0
    assert chat.status.server == []


def test_ctrl_c_stops_it_as_well(chat):
    chat.begin()
    chat.signal(signal.SIGINT)
    assert chat.exit_status() == 0
    assert chat.status.reason == "stopped by SIGINT"


def test_in_the_foreground_the_server_is_heard_and_the_terminals_end_stops_it(chat):
    chat.ask()
    chat.start("foreground")
    chat.wait_for_state("ready")
    assert "begins one" in chat.folder.supervisor_log.read_text()
    chat.signal(signal.SIGHUP)
    assert chat.exit_status() == 0
    assert chat.status.reason == "stopped by SIGHUP"


def test_it_can_be_stopped_while_it_starts(chat):
    chat.tell("loading")
    chat.ask()
    chat.start()
    wait_for(lambda: chat.folder.status.exists() and chat.status.phase == "loading the model", WAIT_S)
    assert {one.pid for one in chat.status.starting} == {process.pid for process in chat.processes()}
    assert chat.stop() == 0
    assert chat.status.starting == []
    assert chat.status.state == "stopped"
    assert chat.processes() == []


def test_it_can_be_stopped_while_it_waits_to_start_again(chat):
    chat.begin(restart_backoff_s=60)
    chat.server().kill()
    wait_for(lambda: chat.status.phase == "waiting 60 s to start it again", WAIT_S)
    assert chat.stop() == 0
    assert chat.status.state == "stopped"


@pytest.mark.parametrize("strategy", ["blue_green", "recreate"])
def test_it_can_be_stopped_in_the_middle_of_an_update(chat, strategy):
    chat.begin()
    chat.tell("loading", server="two")
    chat.update(strategy=strategy)
    wait_for(lambda: any(chat.name_of(process) == "two" for process in chat.processes()), WAIT_S)
    assert chat.stop() == 0
    assert chat.status.state == "stopped"
    assert chat.processes() == []


def test_it_can_be_stopped_while_the_replaced_server_drains(chat):
    chat.tell("held")
    chat.begin(drain_timeout_s=1)
    with chat.open_request() as answer:
        chat.update()
        chat.wait_for_generation()
        chat.signal(signal.SIGTERM)
        chat.untell("held")
        assert answer.result(WAIT_S) == "one"
        assert chat.exit_status() == 0
    assert chat.processes() == []


def test_a_killed_supervisor_takes_the_server_with_it(chat):
    chat.begin()
    chat.signal(signal.SIGKILL)
    assert chat.exit_status() == -signal.SIGKILL
    wait_for(lambda: chat.processes() == [], 5)
    assert chat.status.state == "ready"  # nobody is left to say otherwise
    assert not is_held(chat.folder.life_lock)


def test_a_failed_first_start_is_final_and_explained(chat):
    chat.tell("broken")
    chat.ask()
    chat.start()
    assert chat.exit_status() == 1
    status = chat.status
    assert (status.state, status.restarts) == ("failed", 0)
    assert status.reason == "exit status 1: ValueError: the model is broken"
    assert "begins one" in status.last_error
    assert not takes_connections(status.port)
    assert chat.processes() == []


def test_a_start_that_takes_too_long_fails(chat):
    chat.tell("loading")
    chat.ask(ready_timeout_s=1)
    chat.start()
    assert chat.exit_status() == 1
    assert chat.status.reason.startswith("not ready after 1 s (ready_timeout_s): ")
    assert chat.processes() == []


def test_a_server_that_lost_its_port_gets_another_one(chat):
    chat.tell("taken")
    chat.begin()
    assert chat.get() == "one"
    assert "address already in use" in chat.folder.log.read_text()


def test_a_taken_public_port_fails_before_any_load(chat):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        chat.ask(port=port)
        chat.start()
        assert chat.exit_status() == 1
    assert chat.status.state == "failed"
    assert chat.status.reason == f"port {port} on 127.0.0.1 is taken by another program. Give another one, or none."
    assert not chat.folder.log.exists()


def test_a_host_that_is_not_here_fails_before_any_load(chat):
    chat.ask(host="192.0.2.1", port=free_port())
    chat.start()
    assert chat.exit_status() == 1
    assert chat.status.reason.endswith(". Give another one.")
    assert "on 192.0.2.1 cannot be listened on: " in chat.status.reason


def test_a_port_that_nobody_asked_for_is_kept(chat):
    chat.begin()
    port = chat.status.port
    assert chat.stop() == 0
    chat.start()
    chat.wait_for_state("ready")
    assert chat.status.port == port


def test_a_kept_port_that_was_taken_meanwhile_is_given_up(chat):
    chat.begin()
    port = chat.status.port
    assert chat.stop() == 0
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        chat.start()
        chat.wait_for_state("ready")
        assert chat.get() == "one"
        assert chat.status.port != port


def test_a_supervisor_of_another_token_touches_nothing(chat):
    chat.ask()
    chat.start(token="t0")
    assert chat.exit_status() == 0
    assert not chat.folder.status.exists()
    assert chat.folder.supervisor_log.read_text() == ""


def test_a_supervisor_without_a_spec_ends_quietly(chat):
    chat.start()
    assert chat.exit_status() == 0
    assert not chat.folder.status.exists()


def test_a_supervisor_of_a_deleted_deployment_ends_quietly_and_makes_no_folder(tmp_path):
    module = "mlflow_llm_plugins.deployments.local.supervision.supervisor"
    command = [sys.executable, "-m", module, str(tmp_path / "gone"), "t1"]
    ended = subprocess.run(command, capture_output=True, timeout=WAIT_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    assert not (tmp_path / "gone").exists()


def test_a_supervisor_that_is_replaced_by_another_one_stops(chat):
    chat.begin()
    chat.spec = chat.spec.model_copy(update={"token": "t2"})
    chat.update()
    assert chat.exit_status() == 0
    assert (chat.status.state, chat.status.reason) == ("stopped", "not wanted any more")


def test_a_damaged_spec_changes_nothing(chat):
    chat.begin()
    chat.folder.spec.write_text("{")
    chat.signal(signal.SIGHUP)
    wait_for(lambda: "is damaged" in chat.folder.supervisor_log.read_text(), WAIT_S)
    assert chat.get() == "one"


def test_a_status_that_cannot_be_written_ends_nothing_and_is_written_later(chat):
    chat.folder.status.mkdir()  # also root cannot replace a directory by a file
    chat.ask()
    chat.start(health_every_s=600)
    wait_for(lambda: any(chat.name_of(process) == "one" for process in chat.processes()), WAIT_S)
    wait_for(lambda: "ready" in chat.folder.supervisor_log.read_text(), WAIT_S)
    chat.folder.status.rmdir()
    chat.wait_for_state("ready")
    assert chat.get() == "one"
    assert chat.folder.supervisor_log.read_text().count("cannot be written") == 1


def deleted(path):
    path.unlink()


def damaged(path):
    path.write_text('{"format": 1, ')


def of_an_earlier_time(path):
    path.write_text(path.read_text().replace('"ready"', '"starting"'))


@pytest.mark.parametrize("harm", [deleted, damaged, of_an_earlier_time])
def test_a_status_that_others_have_changed_is_written_again(chat, harm):
    chat.ask()
    chat.start(health_every_s=600)
    before = chat.wait_for_state("ready")
    content = chat.folder.status.read_bytes()
    harm(chat.folder.status)
    wait_for(lambda: chat.folder.status.exists() and chat.folder.status.read_bytes() == content, WAIT_S)
    assert chat.status == before


def test_a_status_is_written_again_while_nothing_happens_at_all(chat):
    chat.begin(restart_backoff_s=60)
    chat.server().kill()
    wait_for(lambda: chat.status.phase, WAIT_S)
    chat.folder.status.unlink()
    wait_for(chat.folder.status.exists, WAIT_S)
    assert chat.status.phase == "waiting 60 s to start it again"


def test_an_orphan_of_the_server_is_found_and_ended(chat):
    chat.tell("orphan")
    chat.begin()
    orphan = int((chat.control() / "orphan.pid").read_text())
    chat.server().kill()
    wait_for(lambda: chat.status.restarts == 1 and chat.status.state == "ready", WAIT_S)
    assert not os.path.exists(f"/proc/{orphan}")


def takes_connections(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_deployment_whose_folder_is_deleted_ends(chat):
    chat.begin()
    server = chat.server()
    elsewhere = chat.folder.path.rename(chat.folder.path.with_name("gone"))
    assert chat.exit_status() == 0
    assert not server.is_running()
    assert not chat.folder.path.exists()
    elsewhere.rename(chat.folder.path)

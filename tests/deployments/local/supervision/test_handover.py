"""Updates: the new server takes over when it is ready, and when it is not, the old one goes on."""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.e2e.serving import free_port, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes as Linux has them")

WAIT_S = 20


def test_the_old_server_serves_until_the_new_one_is_ready(chat):
    chat.begin()
    old, port = chat.server("one"), chat.status.port
    chat.tell("loading", server="two")
    chat.update("two")
    wait_for(lambda: chat.status.phase == "loading the model", WAIT_S)
    assert chat.get() == "one"
    assert chat.status.state == "ready"
    chat.untell("loading", server="two")
    status = chat.wait_for_generation()
    assert chat.get() == "two"
    assert (status.state, status.phase, status.port, status.restarts) == ("ready", "", port, 0)
    assert status.serving == chat.spec
    wait_for(lambda: not old.is_running(), WAIT_S)
    assert (chat.control("one") / "let_go").exists()


def test_no_request_is_lost_in_an_update(chat):
    chat.begin()
    stop, answers = threading.Event(), []

    def ask():
        with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
            while not stop.is_set():
                answers.append(client.get(chat.url()).text)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        chat.update("two")
        chat.wait_for_generation()
        wait_for(lambda: answers[-1] == "two", WAIT_S)
        stop.set()
        for client in clients:
            client.result(WAIT_S)
    assert set(answers) == {"one", "two"}


def test_an_open_request_ends_on_the_old_server(chat):
    chat.tell("held")
    chat.begin(drain_timeout_s=WAIT_S)
    with chat.open_request() as answer:
        chat.update("two")
        chat.wait_for_generation()
        assert chat.get() == "two"
        chat.untell("held")
        assert answer.result(WAIT_S) == "one"


def test_a_new_version_that_fails_is_refused_and_the_old_one_goes_on(chat):
    chat.begin()
    old, before = chat.server("one"), chat.status
    chat.tell("broken", server="two")
    chat.update("two")
    error = chat.wait_for_refusal()
    assert error.startswith("exit status 1: ValueError: the model is broken\nThe end of its log:\n")
    assert "begins one" not in error  # the log of the new one alone
    assert chat.get() == "one"
    assert old.is_running()
    status = chat.status
    assert (status.state, status.phase) == ("ready", "")
    assert (status.serving, status.ready_since) == (before.serving, before.ready_since)


def test_a_refused_version_can_be_mended(chat):
    chat.begin()
    chat.tell("broken", server="two")
    chat.update("two")
    chat.wait_for_refusal()
    chat.untell("broken", server="two")
    chat.update("two")
    assert chat.wait_for_generation().refused is None
    assert chat.get() == "two"


def test_asking_for_the_same_again_starts_a_new_server(chat):
    chat.begin()
    old = chat.server()
    chat.update("one")
    chat.wait_for_generation()
    wait_for(lambda: not old.is_running(), WAIT_S)
    assert chat.get() == "one"


def test_a_signal_without_a_new_generation_changes_nothing(chat):
    chat.begin()
    old = chat.server()
    chat.spec = chat.spec.model_copy(update={"generation": 0})
    chat.update("one")
    chat.update("two")
    chat.wait_for_generation()
    assert chat.get() == "two"
    wait_for(lambda: not old.is_running(), WAIT_S)


def test_updates_follow_one_another(chat):
    chat.begin()
    for name in ("two", "three", "four"):
        chat.update(name)
        chat.wait_for_generation()
        assert chat.get() == name
    wait_for(lambda: len(chat.processes()) == 2, WAIT_S)


def test_an_old_server_that_crashes_meanwhile_is_started_again(chat):
    chat.begin()
    chat.tell("loading", server="two")
    chat.update("two")
    wait_for(lambda: chat.status.phase == "loading the model", WAIT_S)
    chat.server("one").kill()
    wait_for(lambda: chat.status.restarts == 1 and chat.status.state == "ready", WAIT_S)
    assert chat.get() == "one"
    chat.untell("loading", server="two")
    chat.wait_for_generation()
    assert chat.get() == "two"
    wait_for(lambda: len(chat.processes()) == 2, WAIT_S)


def test_an_old_server_that_fails_for_good_meanwhile_is_told_when_the_update_is_refused(chat):
    chat.begin(max_restarts=0)
    chat.tell("loading", server="two")
    chat.update("two")
    wait_for(lambda: chat.status.phase == "loading the model", WAIT_S)
    chat.server("one").kill()
    wait_for(lambda: chat.status.state == "restarting", WAIT_S)
    chat.tell("broken", server="two")
    for process in chat.processes():  # of the new one, as the old one is gone
        process.kill()
    chat.untell("loading", server="two")
    status = chat.wait_for_state("failed")
    assert "no restart left" in status.reason
    assert chat.exit_status() == 1


def test_the_model_that_nobody_serves_any_more_is_removed_when_its_server_has_ended(chat, model):
    download = chat.folder.new_download()
    (download / "inner").mkdir(parents=True)
    chat.spec = chat.spec.model_copy(update={"model": model.model_copy(update={"path": download / "inner"})})
    chat.tell("held")
    chat.begin(drain_timeout_s=WAIT_S)
    with chat.open_request() as answer:
        chat.spec = chat.spec.model_copy(update={"model": model})
        chat.update("two")
        chat.wait_for_generation()
        assert download.exists()
        chat.untell("held")
        assert answer.result(WAIT_S) == "one"
    wait_for(lambda: not download.exists(), WAIT_S)
    assert model.path.exists()


def test_the_new_version_saves_a_deployment_whose_server_keeps_crashing(chat):
    chat.begin(restart_backoff_s=60)
    chat.server("one").kill()
    wait_for(lambda: chat.status.state == "restarting", WAIT_S)
    chat.update("two")
    chat.wait_for_generation()
    assert chat.status.state == "ready"
    assert chat.get() == "two"


def test_recreate_never_runs_two(chat):
    chat.begin(strategy="recreate")
    old = chat.server("one")
    chat.tell("loading", server="two")
    chat.update("two", strategy="recreate")
    wait_for(lambda: chat.status.phase == "loading the model", WAIT_S)
    assert not old.is_running()
    assert (chat.status.state, chat.status.reason) == ("restarting", "an update replaces the server")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chat.get)
        chat.untell("loading", server="two")
        assert waiting.result(WAIT_S) == "two"
    assert chat.wait_for_generation().state == "ready"


def test_clients_wait_for_a_recreation_as_long_as_requests_may_take(chat):
    chat.ask(strategy="recreate")
    chat.start(connection_s=0.1)  # that they wait in other cases
    chat.wait_for_state("ready")
    chat.tell("loading", server="two")
    chat.update("two", strategy="recreate", request_timeout_s=WAIT_S)
    wait_for(lambda: chat.status.phase == "loading the model", WAIT_S)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chat.get)
        time.sleep(0.5)
        chat.untell("loading", server="two")
        assert waiting.result(WAIT_S) == "two"
    chat.server("two").kill()
    wait_for(lambda: chat.status.state == "restarting", WAIT_S)
    assert httpx.get(chat.url(), trust_env=False, timeout=WAIT_S).status_code == 503


def test_recreate_goes_back_when_the_new_version_fails(chat):
    chat.begin(strategy="recreate")
    chat.tell("broken", server="two")
    chat.update("two", strategy="recreate")
    assert "ValueError: the model is broken" in chat.wait_for_refusal()
    chat.wait_for_state("ready")
    assert chat.get() == "one"
    assert chat.status.serving.generation == chat.spec.generation - 1


def test_another_port_is_opened_first_and_the_old_one_shut_then(chat):
    chat.begin()
    before, port = chat.status.port, free_port()
    chat.update("two", port=port)
    assert chat.wait_for_generation().port == port
    assert chat.get() == "two"
    wait_for(lambda: not takes_connections(before), WAIT_S)


def test_a_taken_port_refuses_the_update_before_any_load(chat):
    chat.begin()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        chat.update("two", port=port)
        assert chat.wait_for_refusal() == (
            f"port {port} on 127.0.0.1 is taken by another program. Give another one, or none."
        )
    assert "begins two" not in chat.folder.log.read_text()
    assert chat.get() == "one"


def test_another_host_takes_over_the_port(chat):
    chat.begin()
    port = chat.status.port
    chat.update("two", host="0.0.0.0", insecure=True)
    assert chat.wait_for_generation().port == port
    assert chat.get() == "two"
    of_all = psutil.net_connections("tcp")  # of one process it has another name before psutil 6
    listening = [each for each in of_all if each.pid == chat.process.pid and each.status == "LISTEN"]
    assert [(each.laddr.ip, each.laddr.port) for each in listening] == [("0.0.0.0", port)]


def test_a_host_that_is_not_here_refuses_the_update_before_any_load(chat):
    chat.begin()
    chat.update("two", host="192.0.2.1")
    assert "on 192.0.2.1 cannot be listened on" in chat.wait_for_refusal()
    assert "begins two" not in chat.folder.log.read_text()
    assert chat.get() == "one"


def takes_connections(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

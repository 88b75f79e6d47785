"""A server that crashes, hangs or dies inside is replaced, and clients wait for it."""

from __future__ import annotations

import sys

import httpx
import pytest

from tests.e2e.serving import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes as Linux has them")

WAIT_S = 20


def restarted(chat, times=1):
    return lambda: chat.status.restarts == times and chat.status.state == "ready"


def test_a_killed_server_is_started_again_and_says_how_it_ended(chat):
    chat.begin()
    killed, before = chat.server(), chat.status
    killed.kill()
    wait_for(restarted(chat), WAIT_S)
    assert chat.server() != killed
    assert chat.get() == "one"
    assert chat.status.last_error.startswith("killed by SIGKILL\nThe end of its log:\n")
    assert chat.status.ready_since > before.ready_since
    assert chat.status.port == before.port


def test_a_server_whose_command_is_killed_is_started_again(chat):
    chat.begin()
    killed = chat.server()
    chat.command().kill()
    wait_for(restarted(chat), WAIT_S)
    assert not killed.is_running()
    assert chat.get() == "one"


def test_new_connections_wait_for_the_next_server_while_open_ones_fail_at_once(chat):
    chat.tell("held")
    chat.begin(restart_backoff_s=0.5)
    with chat.open_request() as open_one:
        chat.server().kill()
        with pytest.raises(httpx.TransportError):
            open_one.result(2)
        wait_for(lambda: chat.status.state == "restarting", WAIT_S)
        assert chat.get() == "one"
    assert chat.status.restarts == 1


def test_the_reason_is_told_while_it_waits(chat):
    chat.begin(restart_backoff_s=60)
    chat.server().kill()
    wait_for(lambda: chat.status.phase, WAIT_S)
    status = chat.status
    assert (status.state, status.reason) == ("restarting", "killed by SIGKILL")
    assert status.phase == "waiting 60 s to start it again"
    assert status.server == []


def test_too_many_crashes_in_a_row_are_the_end(chat):
    chat.begin(max_restarts=2)
    chat.tell("broken")
    chat.server().kill()
    assert chat.exit_status() == 1
    status = chat.status
    assert (status.state, status.restarts) == ("failed", 2)
    why = "exit status 1: ValueError: the model is broken"
    assert status.reason == f"crashed with no restart left (max_restarts=2): {why}"
    assert status.last_error.startswith(why)
    assert chat.processes() == []


def test_without_restarts_the_first_crash_is_the_end(chat):
    chat.begin(max_restarts=0)
    chat.server().kill()
    assert chat.exit_status() == 1
    assert (chat.status.state, chat.status.restarts) == ("failed", 0)
    assert chat.status.reason == "crashed with no restart left (max_restarts=0): killed by SIGKILL"


def test_a_start_that_fails_is_tried_again_after_the_server_has_served(chat):
    chat.begin(max_restarts=50)
    chat.tell("broken")
    chat.server().kill()
    wait_for(lambda: chat.status.restarts >= 2, WAIT_S)
    assert "the model is broken" in chat.status.last_error
    chat.untell("broken")
    chat.wait_for_state("ready")
    assert chat.get() == "one"


def test_a_silent_server_is_unhealthy_until_it_answers_again(chat):
    chat.begin()
    chat.tell("silent")
    wait_for(lambda: chat.status.state == "unhealthy", WAIT_S)
    assert chat.status.reason == "3 health checks in a row failed"
    assert chat.status.ready_since is not None
    chat.untell("silent")
    wait_for(lambda: chat.status.state == "ready", WAIT_S)
    assert (chat.status.reason, chat.status.restarts) == ("", 0)


def test_a_server_that_stays_silent_is_replaced(chat):
    chat.ask()
    chat.start(unhealthy_s=0.5)
    chat.wait_for_state("ready")
    silent = chat.server()
    chat.tell("silent")
    wait_for(lambda: chat.status.state == "restarting", WAIT_S)
    chat.untell("silent")
    wait_for(restarted(chat), WAIT_S)
    assert not silent.is_running()
    assert chat.status.last_error.startswith("it did not answer for more than 0.5 s")


def test_a_server_whose_engine_is_dead_is_replaced(chat):
    chat.begin()
    dead = chat.server()
    chat.tell("dead")
    wait_for(lambda: not dead.is_running(), WAIT_S)
    chat.untell("dead")
    wait_for(restarted(chat), WAIT_S)
    assert chat.status.last_error.startswith("its engine is dead")


def test_the_processes_in_the_status_are_kept_up_to_date(chat):
    chat.begin()
    chat.server().kill()
    wait_for(restarted(chat), WAIT_S)
    wait_for(lambda: {one.pid for one in chat.status.server} == {each.pid for each in chat.processes()}, WAIT_S)

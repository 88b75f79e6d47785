"""Processes are known by pid, start and boot."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity, family, identities


def test_a_running_process_is_found():
    identity = ProcessIdentity.own()
    assert identity.is_alive
    assert identity.process() == psutil.Process(os.getpid())


def test_a_process_that_ended_is_not(gone):
    assert not gone.is_alive


@pytest.mark.parametrize("difference", [{"started": "1"}, {"boot": "another"}])
def test_a_pid_that_was_given_out_again_is_another_process(difference):
    assert ProcessIdentity.own().model_copy(update=difference).process() is None


def test_a_zombie_does_not_run():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not identity.is_alive
    process.wait(30)


def test_it_survives_being_written_down():
    identity = ProcessIdentity.own()
    assert ProcessIdentity.model_validate_json(identity.model_dump_json()) == identity


def test_the_family_of_a_process_is_all_that_descends_from_it():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()']); print(1, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    found = family(psutil.Process(process.pid))
    assert found[0].pid == process.pid
    assert len(found) == 2
    assert len(identities(found)) == 2
    for each in found:
        each.kill()
    process.communicate(timeout=30)
    psutil.wait_procs(found, timeout=30)
    assert identities(found) == []

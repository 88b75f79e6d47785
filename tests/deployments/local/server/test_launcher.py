"""The process that becomes a server: it is the command, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from tests.e2e.serving import wait_for

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="Linux tells a process of its parent's end"
)

LAUNCHER = [sys.executable, "-m", "mlflow_llm_plugins.deployments.local.server.launcher"]
WAIT_S = 20
PARENT = f"""
import os, subprocess, sys
command = [sys.executable, "-c", "import time; print('runs', flush=True); time.sleep(600)"]
child = subprocess.Popen([*{LAUNCHER!r}, str(os.getpid()), "--", *command], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def launched(parent: int, *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [*LAUNCHER, str(parent), "--", *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_the_command_gets_its_arguments_and_the_process():
    code = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    arguments = [*LAUNCHER, str(os.getpid()), "--", sys.executable, "-c", code, "--", "a b", ""]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert said.strip() == f"{process.pid} {['--', 'a b', '']}"
    assert process.returncode == 7


def test_nothing_runs_when_the_parent_has_ended_already():
    done = launched(os.getppid(), sys.executable, "-c", "print('runs')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_command_that_is_not_there_is_named():
    done = launched(os.getpid(), "/no/such/program")
    assert done.returncode == 1
    assert done.stderr == "/no/such/program cannot be started: No such file or directory\n"


def test_the_command_ends_when_its_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        command = ProcessIdentity.of(int(parent.stdout.readline()))
        try:
            parent.send_signal(signal.SIGKILL)
            wait_for(lambda: not command.is_alive, 5)
        finally:
            if (process := command.process()) is not None:
                process.kill()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [("server.launcher", ["pydantic", "psutil", "mlflow"]), ("supervision.supervisor", ["mlflow", "torch"])],
)
def test_what_starts_often_loads_little(module, unwanted):
    code = f"import sys, mlflow_llm_plugins.deployments.local.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert set(unwanted) & set(done.stdout.split()) == set()

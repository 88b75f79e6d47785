"""Stands for `mlflow models serve`: starts the server, which gets SIGTERM when this ends, and waits for it.

python fake_command.py PORT
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

APP = "mlflow.pyfunc.scoring_server.app:app"


def main() -> None:
    command = [sys.executable, str(Path(__file__).with_name("fake_server.py")), sys.argv[1], APP]
    server = subprocess.Popen(command, preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM))
    status = server.wait()
    if status:
        raise Exception(f"Command '{command}' returned non zero return code. Return code = {status}")


if __name__ == "__main__":
    main()

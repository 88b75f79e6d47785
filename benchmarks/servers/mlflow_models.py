"""Stock `mlflow models serve`: of the stock flavor without this package's routes, and of our flavor with them."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.servers.http_server import PATIENCE_S, Address, HttpServer
from mlflow_llm_plugins.mlflow_hooks import SWITCH


def stock() -> HttpServer:
    """It neither streams nor batches."""
    return HttpServer("stock", serve, path="/invocations", answers=("whole",), environment={SWITCH: "0"})


def ours(artifact: str) -> HttpServer:
    """With the settings that a user gets who sets none."""
    needs = "openvino_genai" if "openvino" in artifact else "torch"
    return HttpServer(
        artifact,
        serve,
        health="/health",
        knows_ignore_eos=True,
        environment={SWITCH: "1"},
        reason="" if find_spec(needs) else f"{needs} is not installed",
    )


def serve(address: Address) -> list[str]:
    """The same command for both."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(address.artifact),
        "--env-manager",
        "local",
    ]
    return [*command, "-h", "127.0.0.1", "-p", str(address.port), "--timeout", f"{PATIENCE_S:.0f}"]

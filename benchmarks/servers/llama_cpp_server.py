"""llama-cpp-python's server on a GGUF file of the same weights, in 8 bits (Q8_0)."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from benchmarks.servers.gguf_file import MODEL_FILE
from benchmarks.servers.http_server import Address, HttpServer
from mlflow_llm_plugins.hardware import granted_cpus

NEEDS = ("llama_cpp", "gguf")


def llama_cpp_server() -> HttpServer:
    """It answers one request at a time, and its streams tell no usage."""
    missing = [name for name in NEEDS if not find_spec(name)]
    return HttpServer(
        "gguf", _command, ready="/v1/models", reason=f"not installed: {', '.join(missing)}" if missing else ""
    )


def _command(address: Address) -> list[str]:
    threads = str(granted_cpus())
    sizes = ["--n_ctx", str(address.longest), "--n_threads", threads, "--n_threads_batch", threads]
    place = ["--host", "127.0.0.1", "--port", str(address.port)]
    model = ["--model", str(address.artifact / MODEL_FILE), "--interrupt_requests", "false"]
    return [sys.executable, "-m", "llama_cpp.server", *model, *sizes, *place]

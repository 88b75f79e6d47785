"""`vllm serve`, where it is installed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers.artifacts import CHECKPOINT
from benchmarks.servers.http_server import Address, HttpServer

SHORTEST_CONTEXT = 512


def vllm_serve(program: Path) -> HttpServer:
    def command(address: Address) -> list[str]:
        sizes = ["--max-model-len", str(max(SHORTEST_CONTEXT, address.longest)), "--max-num-seqs", str(address.rows)]
        place = ["--host", "127.0.0.1", "--port", str(address.port)]
        return [str(program), "serve", str(address.artifact), "--dtype", "float32", *sizes, *place]

    return HttpServer(
        CHECKPOINT,
        command,
        ready="/health",
        knows_ignore_eos=True,
        environment={"VLLM_NO_USAGE_STATS": "1"},
        program=program,
        asks_version="--version",
    )

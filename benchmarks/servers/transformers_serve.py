"""`transformers serve`, with its continuous batching and a cache that fits the loads."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.servers.artifacts import CHECKPOINT
from benchmarks.servers.http_server import Address, HttpServer

PAGE = 32  # tokens; with its own pages and its own, far larger cache a CPU is several times slower
STEP_TOKENS = 256
FREE_SHARE = 0.15  # that its scheduler keeps


def transformers_serve(program: Path) -> HttpServer:
    def command(address: Address) -> list[str]:
        blocks = math.ceil(address.rows * (math.ceil(address.longest / PAGE) + 1) / (1 - FREE_SHARE))
        cache = ["--cb-block-size", str(PAGE), "--cb-num-blocks", str(blocks)]
        batching = ["--continuous-batching", *cache, "--cb-max-batch-tokens", str(max(STEP_TOKENS, address.rows))]
        place = ["--host", "127.0.0.1", "--port", str(address.port), "--device", "cpu", "--log-level", "error"]
        return [str(program), "serve", str(address.artifact), *batching, *place]

    return HttpServer(CHECKPOINT, command, ready="/health", program=program)

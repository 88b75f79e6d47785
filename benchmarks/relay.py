"""What the relay in front of every deployment costs: a server that is asked directly, and through the relay.

    python -m benchmarks.relay [--runs 3] [--quick] [--out benchmarks/results]

Server, relay and load generator are one process each, as in a deployment. The server does nothing but answer: in one
piece, or as a stream with a pause before each token. Direct and relayed runs take turns; figures are medians of the
runs. A cost is what the relay adds to a latency, or takes from a throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track
from rich.table import Table

from benchmarks.report import Origin, save, show
from benchmarks.servers.process import free_port, running, wait_until_ready
from mlflow_llm_plugins.loadtest import Load, LoadResult, Target, run_load

HERE = "127.0.0.1"
TOKENS = 50
PAUSE_S = 0.005
WAIT_S = 10.0  # of the relay for the server, which is there
PATH = "/v1/chat/completions"
LIBRARIES = ("uvicorn", "starlette", "httpx", "mlflow-llm-plugins")


def serve(port: int) -> None:
    """Run the server."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def chat(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(stream(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "token " * TOKENS}
        return JSONResponse({"choices": [{"index": 0, "message": message}], "usage": usage()})

    async def ping(request: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route(PATH, chat, methods=["POST"]), Route("/ping", ping)])
    uvicorn.run(app, host=HERE, port=port, log_level="warning")


async def stream() -> AsyncIterator[bytes]:
    for number in range(TOKENS):
        await asyncio.sleep(PAUSE_S)
        yield b'data: {"choices":[{"index":0,"delta":{"content":"token %d "}}]}\n\n' % number
    yield (
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"usage":%s}\n\n'
        % json.dumps(usage()).encode()
    )
    yield b"data: [DONE]\n\n"


def usage() -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": TOKENS, "total_tokens": 1 + TOKENS}


def relay(port: int, upstream: int) -> None:
    """Run the relay, as a supervisor does."""
    from mlflow_llm_plugins.deployments.local.relay.relay import Relay, Upstream

    async def pass_on() -> None:
        relay = Relay(WAIT_S)
        await relay.listen(HERE, port)
        relay.switch(Upstream(HERE, upstream))
        await asyncio.get_running_loop().create_future()

    asyncio.run(pass_on())


@dataclass(frozen=True)
class Measurement:
    """One load, what is measured of it, and what the relay may cost."""

    what: str
    stream: bool
    clients: int
    requests: int
    figure: Callable[[LoadResult], float]
    cost: Callable[[float, float], float]  # of the direct figure and the relayed one
    at_most: float
    shown: str  # a cost, as a format

    def run(self, port: int, quick: bool) -> float:
        target = Target(url=f"http://{HERE}:{port}", path=PATH, stream=self.stream)
        requests = 2 * self.clients if quick else self.requests
        result = run_load(target, Load(clients=self.clients, requests=requests, warmup=4 * self.clients))
        if result.failures:
            raise SystemExit(f"{self.what}: of {requests} requests some failed: {result.failures}")
        return self.figure(result)


def latency_ms(result: LoadResult) -> float:
    latency = result.end_to_end_latency
    assert latency is not None  # all requests have succeeded
    return latency.p50 * 1e3


def tokens_per_s(result: LoadResult) -> float:
    throughput = result.output_tokens_per_second
    assert throughput is not None  # the server counts
    return throughput


MEASUREMENTS = (
    Measurement(
        "small answers, 1 client: median latency, ms",
        stream=False,
        clients=1,
        requests=2000,
        figure=latency_ms,
        cost=lambda direct, relayed: relayed - direct,
        at_most=0.3,
        shown="{:+.2f} ms",
    ),
    Measurement(
        f"streams of {TOKENS} tokens every {PAUSE_S * 1e3:.0f} ms, 16 clients: tokens/s",
        stream=True,
        clients=16,
        requests=480,
        figure=tokens_per_s,
        cost=lambda direct, relayed: 1 - relayed / direct,
        at_most=0.03,
        shown="{:.1%}",
    ),
)


@dataclass(frozen=True)
class Row:
    what: str
    direct: float
    relayed: float
    cost: float
    at_most: float
    holds: bool
    runs: int
    hardware: str
    versions: str
    date: str
    command: str


@contextmanager
def ports(folder: Path) -> Iterator[dict[str, int]]:
    """Where a server is reached, directly and relayed, until the block ends."""
    found = {"direct": free_port(), "relayed": free_port()}
    calls = {
        "direct": f"serve({found['direct']})",
        "relayed": f"relay({found['relayed']}, {found['direct']})",
    }
    with ExitStack() as children:
        for name, call in calls.items():
            command = [sys.executable, "-c", f"from benchmarks.relay import relay, serve; {call}"]
            child = children.enter_context(running(command, folder / f"{name}.log"))
            wait_until_ready(child, f"http://{HERE}:{found[name]}/ping")
        yield found


def measure(found: dict[str, int], runs: int, quick: bool) -> Iterator[Row]:
    for measurement in MEASUREMENTS:
        figures: dict[str, list[float]] = defaultdict(list)
        for turn in track(range(2 * runs), description=measurement.what):
            side = ("direct", "relayed")[turn % 2]
            figures[side].append(measurement.run(found[side], quick))
        direct, relayed = (statistics.median(figures[side]) for side in ("direct", "relayed"))
        yield row(measurement, direct, relayed, runs)


def row(measurement: Measurement, direct: float, relayed: float, runs: int) -> Row:
    cost = measurement.cost(direct, relayed)
    return Row(
        what=measurement.what,
        direct=round(direct, 3),
        relayed=round(relayed, 3),
        cost=round(cost, 4),
        at_most=measurement.at_most,
        holds=cost <= measurement.at_most,
        runs=runs,
        **asdict(Origin.of("benchmarks.relay", LIBRARIES)),
    )


def table_of(rows: list[Row]) -> Table:
    first = rows[0]
    table = Table(title=f"Medians of {first.runs} runs, {first.date}", caption=f"{first.hardware}; {first.versions}")
    for column in ("", "direct", "relayed", "cost", "at most", ""):
        table.add_column(column, justify="right" if column else "left")
    shown = {measurement.what: measurement.shown for measurement in MEASUREMENTS}
    for found in rows:
        cost, bar = (shown[found.what].format(value) for value in (found.cost, found.at_most))
        verdict = "holds" if found.holds else "missed"
        table.add_row(found.what, f"{found.direct:.2f}", f"{found.relayed:.2f}", cost, bar, verdict)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each side for each figure")
    parser.add_argument("--quick", action="store_true", help="few requests: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ports(Path(folder)) as found:
        rows = list(measure(found, options.runs, options.quick))
    show(table_of(rows), width=120)
    print(f"saved {save(rows, options.out / 'relay.csv')}")


if __name__ == "__main__":
    main()

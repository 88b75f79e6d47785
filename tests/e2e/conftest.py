"""A stock `mlflow models serve` that the tests of clients share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import free_port, metric, ready, serve_command, served, wait_for

ALLOWED_ANSWERS = 8
NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class StockServer:
    """A server process that takes requests."""

    http: httpx.Client  # for its address
    allowed_answers: int  # that may be open
    new_tokens: int  # of an answer that names no limit, as those of judges do

    @property
    def root(self) -> str:
        """Its address."""
        return str(self.http.base_url).rstrip("/")

    @property
    def url(self) -> str:
        """Where OpenAI's API begins."""
        return f"{self.root}/v1"

    @property
    def open_answers(self) -> float:
        """Answers that run or wait."""
        return self.metric("requests_running") + self.metric("requests_queued")

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return metric(self.http, name)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds, which nothing would tell us."""
        wait_for(condition)

    def wait_until_idle(self) -> None:
        """Until nothing is open."""
        self.wait_until(lambda: self.open_answers == 0)


@pytest.fixture(scope="package")
def serve(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Serve the tiny model until a block ends, with these environment variables beside its limits."""

    @contextmanager
    def run(**environment: str) -> Iterator[StockServer]:
        folder = tmp_path_factory.mktemp("stock")
        config = {"max_new_tokens": NEW_TOKENS}
        quantized_llm.save_model(str(tiny_llama), str(folder / "model"), engine_config=config, bundle_plugin=False)
        port = free_port()
        with ExitStack() as stack:
            with pytest.MonkeyPatch.context() as patch:  # for the server only
                for name, value in {"MLFLOW_LLM_MAX_QUEUE_SIZE": str(ALLOWED_ANSWERS), **environment}.items():
                    patch.setenv(name, value)
                command = serve_command(str(folder / "model"), port)
                http = stack.enter_context(served(command, port, folder / "serve.log"))
            server = StockServer(http, ALLOWED_ANSWERS, NEW_TOKENS)
            wait_for(lambda: ready(server.http))
            yield server

    return run


@pytest.fixture(scope="package")
def server(serve: Callable[..., Any]) -> Iterator[StockServer]:
    """A server that asks for no key and lets a few answers be open at the same time."""
    with serve() as running:
        yield running

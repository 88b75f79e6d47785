"""MLflow's scoring app with a real engine behind it, served by a real uvicorn in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
import uvicorn
from mlflow.pyfunc import scoring_server

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.generation import GenerationEngine

START_S = 30


@dataclass
class Served:
    """A running server."""

    url: str
    engine: GenerationEngine
    model: Any  # MLflow's PyFuncModel
    uvicorn: uvicorn.Server

    def client(self, **options: Any) -> httpx.Client:
        """A client for its address."""
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def wait_until_idle(self) -> None:
        """Until nothing is open in the engine."""
        deadline = time.monotonic() + START_S
        while self.engine.stats().open_requests:
            assert time.monotonic() < deadline, self.engine.stats()
            time.sleep(0.005)


@pytest.fixture(scope="session")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved chat model."""
    path = tmp_path_factory.mktemp("served") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), engine_config={"max_new_tokens": 8}, bundle_plugin=False)
    return path


@pytest.fixture(scope="session")
def serve(artifact: Path) -> Callable[..., Any]:
    """Serve the artifact until a block ends."""

    @contextmanager
    def run(path: Path = artifact, environ: Mapping[str, str] | None = None, **model_config: Any) -> Iterator[Served]:
        model = mlflow.pyfunc.load_model(str(path), model_config=model_config or None)
        with pytest.MonkeyPatch.context() as patch:  # for this server only
            for name, value in (environ or {}).items():
                patch.setenv(name, value)
            app = scoring_server.init(model)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, name="uvicorn")
        thread.start()
        try:
            yield Served(_url(server, thread), model.get_raw_model(), model, server)
        finally:
            server.should_exit = True
            thread.join(START_S)
            assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def served(serve: Callable[..., Any]) -> Iterator[Served]:
    """A server with the limits that it has by default."""
    with serve() as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of `served`."""
    with served.client() as client:
        yield client


def _url(server: uvicorn.Server, thread: threading.Thread) -> str:
    deadline = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive(), "the server ended before it began"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    url = f"http://{host}:{port}"
    while httpx.get(f"{url}/ready").status_code != 200:
        assert time.monotonic() < deadline, "the server does not get ready"
        time.sleep(0.01)
    return url

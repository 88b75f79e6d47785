"""The life of a server process: set up before the first request, warmed up, drained within a bound, closed."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import FrameType
from typing import Any

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.serving.keys import KEY_FILE, ApiKeys
from mlflow_llm_plugins.serving.server import Server, server_log
from mlflow_llm_plugins.serving.threads import started_pool

_logger = logging.getLogger(__name__)

StockLifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

_OBSERVED_EVERY_S = 1.0
_LAST_WORDS_S = 10  # that connections get to end after the engine was closed
_WARM_UP = {"messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello", "max_tokens": 2}


class Lifespan:
    """Wraps the lifespan of MLflow's app."""

    def __init__(self, server: Server, keys: ApiKeys, stock: StockLifespan) -> None:
        """Nothing happens before uvicorn enters it."""
        self._server = server
        self._keys = keys
        self._stock = stock
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[Any]:
        """Around the whole service."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(started_pool(self._server.settings.max_threads, "llm-invocation"))
        self._threads = started_pool(2, "llm-lifespan")  # apart from those that may be waiting for the engine
        _end_with_parent()
        uvicorn_server = _uvicorn_server()
        if uvicorn_server is not None:
            self._handle_signals(loop, uvicorn_server)
            if not self._keys:
                _warn_if_open(uvicorn_server.config.host)
        try:
            async with self._stock(app) as state:
                self._spawn(self._warm_up())
                self._spawn(self._observe())
                yield state
        finally:
            await self._close()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop, uvicorn_server: Any) -> None:
        """SIGTERM and SIGINT drain, within a bound, and the process exits with 0; SIGUSR1 lets connections go."""
        if uvicorn_server.config.timeout_graceful_shutdown is None:
            limit = self._server.settings.drain_timeout_s + _LAST_WORDS_S
            uvicorn_server.config.timeout_graceful_shutdown = int(limit)

        def end(number: int, _: FrameType | None) -> None:
            if uvicorn_server.should_exit and number == signal.SIGINT:
                uvicorn_server.force_exit = True
            uvicorn_server.should_exit = True
            self._server.state.is_draining = True
            loop.call_soon_threadsafe(self._begin_drain)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(signal.SIGUSR1, self._let_connections_go)

    def _let_connections_go(self) -> None:
        self._server.state.closes_connections = True

    def _begin_drain(self) -> None:
        if not any(task.get_name() == "drain" for task in self._tasks):
            self._spawn(self._drain(), "drain")

    async def _drain(self) -> None:
        """Let requests end that were here before; each may still submit what belongs to it."""
        state, limit_s = self._server.state, self._server.settings.drain_timeout_s
        self._server.stop_reading()
        server_log.info("Draining: %d requests are open.", state.open_requests)
        try:
            await asyncio.wait_for(state.is_idle.wait(), limit_s)
        except asyncio.TimeoutError:
            server_log.warning("Requests that are open after %g s are ended.", limit_s)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._server.engine.close)

    async def _observe(self) -> None:
        """Keep the gauges fresh, which of several workers only one is asked for."""
        while True:
            self._server.metrics.observe(self._server.engine.stats())
            await asyncio.sleep(_OBSERVED_EVERY_S)

    async def _warm_up(self) -> None:
        """Make the first request fast, and collections of what was loaded cheap."""
        call = self._server.call()
        answers = self._server.answers(call)
        try:
            await answers.submit(lambda: self._read_warm_up())
            await answers.outputs()
        except LLMError as error:  # a template that wants something else: the first request warms up then
            _logger.info("No warm-up: %s", error)
        finally:
            call.close()
        gc.collect()
        gc.freeze()
        self._server.state.is_ready = True
        server_log.info("Ready: %s", self._server.completions.model_name)

    def _read_warm_up(self) -> Any:
        completions = self._server.completions
        has_template = bool(getattr(completions.engine.tokenizer, "chat_template", None))
        return completions.chat(_WARM_UP) if has_template else completions.completion(_WARM_UP)

    async def _close(self) -> None:
        self._server.state.is_draining = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._server.engine.close)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await loop.run_in_executor(self._threads, self._server.close)
        self._threads.shutdown(wait=False)

    def _spawn(self, work: Any, name: str | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _uvicorn_server() -> Any | None:
    """The running uvicorn server: lifespans start while its own signal handler is in place. None under others."""
    if threading.current_thread() is not threading.main_thread():
        return None
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "should_exit") and hasattr(server, "config") else None


def _end_with_parent() -> None:
    """A worker of `-w N` would go on serving without the process that started it, and nobody would stop it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    _logger.warning(
        "Worker %d holds a copy of the model of its own, as every worker of -w N does. One worker answers many "
        "requests at once.",
        os.getpid(),
    )

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="llm-parent-watch", daemon=True).start()


def _warn_if_open(host: str) -> None:
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        _logger.warning(
            "ANYBODY WHO REACHES %s CAN USE THIS SERVER: no API key is set. Set %s to a file with keys, one a line, "
            "or serve on 127.0.0.1.",
            host,
            KEY_FILE,
        )

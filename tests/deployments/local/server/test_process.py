"""One run of a server: real processes, a command around the server as MLflow's is, and every way to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError
from mlflow_llm_plugins.deployments.local.server.log import ServerLog
from mlflow_llm_plugins.deployments.local.server.process import Server
from mlflow_llm_plugins.deployments.local.specs import first_spec
from tests.deployments.local.fake_command import APP
from tests.e2e.serving import free_port, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes as Linux has them")

WAIT_S = 20
COMMAND = Path(__file__).parents[1] / "fake_command.py"


class Fake:
    """What a test knows of a fake server."""

    def __init__(self, path: Path, model: Any) -> None:
        self.control = path / "control"
        self.control.mkdir()
        self.log = path / "server.log"
        self.model = model
        self.port = free_port()
        self.phases: list[str] = []

    def tell(self, *flags: str) -> None:
        for flag in flags:
            (self.control / flag).touch()

    @asynccontextmanager
    async def started(self, **config: Any) -> AsyncIterator[Server]:
        spec = first_spec("chat", config).model_copy(update={"model": self.model})
        server = Server(spec, self.port, ServerLog(self.log))
        environment = {**os.environ, "FAKE_NAME": "one", "FAKE_CONTROL": str(self.control)}
        try:
            await server.start([sys.executable, str(COMMAND), str(self.port)], environment)
            yield server
        finally:
            await server.stop(0)
            assert self.processes() == []

    @asynccontextmanager
    async def ready(self, **config: Any) -> AsyncIterator[Server]:
        async with self.started(**config) as server:
            await self.wait_until_ready(server)
            yield server

    async def wait_until_ready(self, server: Server, timeout_s: float = WAIT_S) -> None:
        def told(phase: str) -> None:
            if phase not in self.phases[-1:]:
                self.phases.append(phase)
            self.answer_to(phase)

        await server.wait_until_ready(timeout_s, told)

    def answer_to(self, phase: str) -> None:
        """What holds it back goes when it was seen."""
        held = {"loading the model": "loading", "warming up": "warming"}.get(phase, "")
        if held and (self.control / held).exists():
            (self.control / held).unlink()

    def takes_connections(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def processes(self) -> list[psutil.Process]:
        return [each for each in psutil.Process().children(recursive=True) if self._is_ours(each)]

    def one(self, is_server: bool) -> psutil.Process:
        return next(each for each in self.processes() if (APP in each.cmdline()) == is_server)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("FAKE_CONTROL") == str(self.control)
        except psutil.Error:
            return False


@pytest.fixture
def fake(tmp_path: Path, model: Any) -> Fake:
    return Fake(tmp_path, model)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A coroutine function, to its end."""
    asyncio.run(asyncio.wait_for(test(), 3 * WAIT_S))


def test_a_start_tells_what_it_waits_for(fake):
    fake.tell("loading", "warming")

    async def test() -> None:
        async with fake.ready() as server:
            assert fake.phases[-2:] == ["loading the model", "warming up"]
            assert {identity.pid for identity in server.processes()} == {each.pid for each in fake.processes()}
        assert "begins one" in fake.log.read_text()

    run(test)


def test_an_environment_is_made_before_the_server_is_there(fake):
    async def test() -> None:
        async with fake.ready(env_manager="virtualenv"):
            assert "starting the server" not in fake.phases
            assert fake.phases[0] == "creating the environment"

    run(test)


def test_a_server_that_ends_early_says_why(fake):
    fake.tell("broken")

    async def test() -> None:
        async with fake.started() as server:
            with pytest.raises(ServerFailedError) as caught:
                await fake.wait_until_ready(server)
        assert caught.value.reason == "exit status 1: ValueError: the model is broken"
        assert "begins one" in str(caught.value)

    run(test)


def test_a_server_that_is_not_ready_in_time_has_failed(fake):
    fake.tell("warming")
    fake.answer_to = lambda phase: None

    async def test() -> None:
        async with fake.started(ready_timeout_s=1) as server:
            await asyncio.to_thread(wait_for, fake.takes_connections)
            with pytest.raises(ServerFailedError, match=r"^not ready after 1 s \(ready_timeout_s\): warming up"):
                await fake.wait_until_ready(server, 1)

    run(test)


def test_a_server_without_our_routes_is_asked_for_mlflows_own(fake):
    fake.tell("foreign")

    async def test() -> None:
        async with fake.ready() as server:
            assert await server.health(WAIT_S) == "well"
            server.let_connections_go()
            await asyncio.sleep(0)
            assert await server.health(WAIT_S) == "well"
        assert not (fake.control / "let_go").exists()

    run(test)


@pytest.mark.parametrize("key", ["generate_api_key", "api_key_file"])
def test_a_server_that_would_not_ask_for_the_key_has_failed(fake, key):
    fake.tell("foreign")

    async def test() -> None:
        async with fake.started(**{key: True if key == "generate_api_key" else "/no/such/key"}) as server:
            with pytest.raises(ServerFailedError) as caught:
                await fake.wait_until_ready(server)
        assert caught.value.reason == (
            "the server asks for no API key, though one is set: mlflow-llm-plugins does not extend it. Remove "
            "MLFLOW_LLM_EXTEND_STOCK from the environment, or install mlflow-llm-plugins in the model's environment "
            "(log the model with bundle_plugin=True)"
        )
        assert "begins one" in str(caught.value)

    run(test)


def test_a_server_with_our_routes_serves_with_a_key(fake):
    async def test() -> None:
        async with fake.ready(generate_api_key=True) as server:
            assert await server.health(WAIT_S) == "well"

    run(test)


def test_health_tells_the_dead_from_the_silent(fake):
    async def test() -> None:
        async with fake.ready() as server:
            assert await server.health(WAIT_S) == "well"
            fake.tell("dead")
            assert await server.health(WAIT_S) == "dead"
            fake.tell("silent")
            assert await server.health(0.2) == "silent"
            (fake.control / "silent").unlink()

    run(test)


@pytest.mark.parametrize("is_server", [True, False], ids=["the server", "the command around it"])
def test_a_kill_is_noticed_and_nothing_stays(fake, is_server):
    async def test() -> None:
        async with fake.ready() as server:
            ended = asyncio.create_task(server.ended())
            await asyncio.sleep(0)
            fake.one(is_server).kill()
            assert await ended == "killed by SIGKILL"

    run(test)


def test_a_stop_lets_the_open_request_end(fake):
    fake.tell("held")

    async def test() -> None:
        async with fake.ready() as server, httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
            request = asyncio.create_task(client.get(f"http://127.0.0.1:{fake.port}/slow"))
            await asyncio.to_thread(wait_for, (fake.control / "asked").exists)
            stop = asyncio.create_task(server.stop(WAIT_S))
            await asyncio.to_thread(wait_for, lambda: not fake.takes_connections())
            (fake.control / "held").unlink()
            assert (await request).text == "one"
            await stop

    run(test)


def test_stopping_again_or_too_early_or_too_late_is_harmless(fake):
    async def test() -> None:
        async with fake.ready() as server:
            await asyncio.gather(server.stop(1), server.stop(1))
            await server.stop(1)
        await Server(server.spec, fake.port, ServerLog(fake.log)).stop(1)

    run(test)


@pytest.mark.slow
def test_a_server_that_does_not_mind_is_killed_when_its_time_is_over(fake):
    fake.tell("stubborn")

    async def test() -> None:
        async with fake.ready() as server:
            clock = asyncio.get_running_loop().time
            began = clock()
            await server.stop(0.5)
            assert 10 < clock() - began < 15
            assert fake.processes() == []

    run(test)


def test_connections_are_let_go_only_when_the_server_is_ready_for_it(fake):
    fake.tell("loading")
    fake.answer_to = lambda phase: None

    async def test() -> None:
        async with fake.started() as server:
            server.let_connections_go()
            (fake.control / "loading").unlink()
            await fake.wait_until_ready(server)
            server.let_connections_go()
            await asyncio.to_thread(wait_for, (fake.control / "let_go").exists)
            assert await server.health(WAIT_S) == "well"

    run(test)


def test_a_server_that_says_a_lot_is_not_held_up(fake):
    fake.tell("loud")

    async def test() -> None:
        async with fake.ready() as server:
            assert server.tail().splitlines()[-1] == " told it all"
        assert fake.log.stat().st_size > 1_000_000

    run(test)


def test_a_command_that_is_not_there_has_failed(fake):
    async def test() -> None:
        server = Server(
            first_spec("chat", {}).model_copy(update={"model": fake.model}), fake.port, ServerLog(fake.log)
        )
        await server.start(["/no/such/program"], dict(os.environ))
        with pytest.raises(ServerFailedError, match="/no/such/program cannot be started: No such file or directory"):
            await fake.wait_until_ready(server)
        await server.stop(0)

    run(test)


def test_a_signal_that_ends_the_server_is_named(fake):
    async def test() -> None:
        async with fake.ready() as server:
            fake.one(True).send_signal(signal.SIGSEGV)
            assert await server.ended() == "killed by SIGSEGV"

    run(test)

"""One run of the server behind the relay: started, waited for, watched, stopped with all that belongs to it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import psutil

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity, identities
from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.relay.relay import Upstream
from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError, end_of
from mlflow_llm_plugins.deployments.local.server.family import MARK, ServerFamily, is_running, send
from mlflow_llm_plugins.deployments.local.server.log import ServerLog
from mlflow_llm_plugins.deployments.local.server.log_pipe import LogPipe
from mlflow_llm_plugins.deployments.local.server.probe import status_of

Health = Literal["well", "silent", "dead"]

_NO_KEY = (
    "the server asks for no API key, though one is set: mlflow-llm-plugins does not extend it. Remove "
    "MLFLOW_LLM_EXTEND_STOCK from the environment, or install mlflow-llm-plugins in the model's environment (log the "
    "model with bundle_plugin=True)"
)
_LAUNCHER = "mlflow_llm_plugins.deployments.local.server.launcher"
_LOOK_EVERY_S = 0.2  # nothing tells when a server opens its port, nor when the child of a child ends
_LAST_LOOK_S = 0.05
_PROBE_S = 5.0
_LAST_WORDS_S = 10.0  # after the drain: what a server needs to close
_CLEAN_UP_S = 5.0  # for MLflow's command to remove an environment that it was making
_LEFT_BEHIND_S = 2.0  # for processes that the server has not ended
_KILLED_S = 5.0
_LOG_S = 1.0


class Server:
    """A command that serves a model on a port of the loopback interface; belongs to the main thread's event loop."""

    def __init__(self, spec: Spec, port: int, log: ServerLog) -> None:
        """Nothing is started yet.

        Args:
            spec: What it serves.
            port: That it listens on.
            log: Gets what it says; closed when it has stopped.
        """
        self.spec = spec
        self.upstream = Upstream("127.0.0.1", port)
        self._settings = spec.settings
        self._log = log
        self._pipe = LogPipe(log)
        self._has_our_routes = spec.model is not None and spec.model.is_ours
        self._was_ready = False
        self._process: Process | None = None
        self._family: ServerFamily | None = None
        self._exit: asyncio.Task[int] | None = None

    async def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command; it ends with this process.

        Raises:
            ServerFailedError: The system does not start it.
        """
        mark = uuid.uuid4().hex
        launched = [sys.executable, "-m", _LAUNCHER, str(os.getpid()), "--", *command]
        try:
            output = await self._pipe.open()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *launched, env={**environment, MARK: mark}, stdin=DEVNULL, stdout=output, stderr=STDOUT
                )
            finally:
                os.close(output)
        except OSError as error:
            raise ServerFailedError(f"{sys.executable} cannot be started: {error.strerror}", "") from error
        self._exit = asyncio.create_task(self._process.wait())
        try:
            self._family = ServerFamily(self._process.pid, mark)
        except psutil.NoSuchProcess as error:  # it was reaped already
            raise ServerFailedError("it ended at once", self._log.tail()) from error

    async def wait_until_ready(self, timeout_s: float, told: Callable[[str], None]) -> None:
        """Return when it takes requests.

        Args:
            timeout_s: After this long it has failed.
            told: Called with what it does, again and again.

        Raises:
            ServerFailedError: It ended, the time is over, or it lets clients in without the API key that they are to
                send. It is not stopped here.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        phase = ""
        while (remaining := deadline - clock()) > 0:
            if self._status is not None:
                raise await self._failed()
            answer = await status_of(self.upstream.port, self._ready_path, min(_PROBE_S, remaining))
            if answer == 404:
                self._has_our_routes = False  # an environment without our hooks: MLflow's own routes are there
            if self._settings.has_key and not self._has_our_routes:
                raise ServerFailedError(_NO_KEY, self._log.tail(), is_explained=False)
            if answer == 200:
                self._was_ready = True
                return
            phase = self._phase(answer)
            told(phase)
            await self._exit_within(_LOOK_EVERY_S)
        what = f"not ready after {self._settings.ready_timeout_s:g} s (ready_timeout_s): {phase}"
        raise ServerFailedError(what, self._log.tail(), is_explained=False)

    async def health(self, timeout_s: float) -> Health:
        """Whether it can serve, which it has this long to say; "dead" means that only a new process can."""
        path = "/health" if self._has_our_routes else "/ping"
        answer = await status_of(self.upstream.port, path, timeout_s)
        if answer == 200:
            return "well"
        return "dead" if answer == 503 and self._has_our_routes else "silent"

    async def ended(self) -> str:
        """Return when it has ended by itself, with how: of the command and the server behind it, whichever ends first.

        Without the one or the other it is about to end: the command's end is the server's SIGTERM.
        """
        while self._status is None and not self._serves_no_more():
            await self._exit_within(_LOOK_EVERY_S)
        await self._exit_within(_LOG_S)  # the command knows how the server ended
        await self._pipe.drained(_LOG_S)
        return end_of(self._status, self._log.tail())

    def tail(self) -> str:
        """The end of its log."""
        return self._log.tail()

    def processes(self) -> list[ProcessIdentity]:
        """All that run."""
        return [] if self._family is None else identities(self._family.running())

    def let_connections_go(self) -> None:
        """Ask it to close each connection with the next answer. Nothing happens to a server that does not know how."""
        if self._family is None or not (self._has_our_routes and self._was_ready):
            return  # the signal would end it
        if self._settings.workers > 1:  # their parent does not serve
            send(signal.SIGUSR1, self._family.workers())
        elif (uvicorn := self._family.uvicorn()) is not None:
            send(signal.SIGUSR1, [uvicorn])

    async def stop(self, drain_s: float) -> None:
        """End it; nothing of it runs afterwards. Harmless when it has ended, or is being stopped already.

        Args:
            drain_s: That open requests get.
        """
        self._log.mute()  # MLflow's command ends with a traceback, whatever its server was ended by
        if self._family is not None:
            await self._ended_within(self._ask_to_end(self._family, drain_s))
            for number, seconds in ((signal.SIGTERM, _LEFT_BEHIND_S), (signal.SIGKILL, _KILLED_S)):
                send(number, self._family.running())  # for whom nobody waits any more
                await self._gone_within(self._family, seconds)
            await self._pipe.drained(_LOG_S)
        self._pipe.close()

    def _ask_to_end(self, family: ServerFamily, drain_s: float) -> float:
        """Seconds that it gets. Not the command is asked, which would end at once while the server still drains."""
        running, uvicorn = family.running(), family.uvicorn()
        if uvicorn is not None:
            send(signal.SIGTERM, [uvicorn] if is_running(uvicorn) else running)
            return drain_s + _LAST_WORDS_S if self._was_ready else _CLEAN_UP_S
        installers = [process for process in running if process != family.root]
        send(signal.SIGTERM, installers or running)  # the command removes a half-made environment when they fail
        return _CLEAN_UP_S

    async def _ended_within(self, timeout_s: float) -> None:
        """Wait for the command and the server."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        await self._exit_within(timeout_s)
        while clock() < deadline and (self._status is None or self._serves()):
            await asyncio.sleep(_LAST_LOOK_S)

    async def _gone_within(self, family: ServerFamily, timeout_s: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while clock() < deadline and (family.running() or self._status is None):
            await asyncio.sleep(_LAST_LOOK_S)

    @property
    def _status(self) -> int | None:
        """Exit status of the command."""
        return None if self._process is None else self._process.returncode

    async def _exit_within(self, timeout_s: float) -> None:
        if self._exit is not None:
            await asyncio.wait({self._exit}, timeout=timeout_s)

    def _uvicorn(self) -> psutil.Process | None:
        return None if self._family is None else self._family.uvicorn()

    def _serves(self) -> bool:
        uvicorn = self._uvicorn()
        return uvicorn is not None and is_running(uvicorn)

    def _serves_no_more(self) -> bool:
        uvicorn = self._uvicorn()
        return uvicorn is not None and not is_running(uvicorn)

    @property
    def _ready_path(self) -> str:
        return "/ready" if self._has_our_routes else "/ping"

    def _phase(self, answer: int | None) -> str:
        if answer is not None:
            return "warming up"
        if self._uvicorn() is not None:
            return "loading the model"
        return "starting the server" if self._settings.env_manager == "local" else "creating the environment"

    async def _failed(self) -> ServerFailedError:
        await self._pipe.drained(_LOG_S)
        tail = self._log.tail()
        return ServerFailedError(end_of(self._status, tail), tail)

"""The process that a deployment is: `python -m mlflow_llm_plugins...supervision.supervisor FOLDER TOKEN`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.life_lock import LifeLock, acquire
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.local.records import Spec, Status, UnreadableRecordError, read_record
from mlflow_llm_plugins.deployments.local.server.command import CommandOf, serve_command
from mlflow_llm_plugins.deployments.local.server.family import adopt_orphans
from mlflow_llm_plugins.deployments.local.supervision.keeper import DeploymentFailedError
from mlflow_llm_plugins.deployments.local.supervision.life import Life
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.starter import Starter
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile
from mlflow_llm_plugins.errors import LLMError

_logger = logging.getLogger(__name__)
_FOLDER_MISSED = 2  # looks in a row


class Supervisor:
    """Holds the life lock of a deployment and serves what its spec asks for, until a signal ends it or it has failed.

    SIGHUP: the spec has changed. SIGTERM and SIGINT: stop.
    """

    def __init__(
        self,
        folder: DeploymentFolder,
        token: str,
        *,
        environ: Mapping[str, str] | None = None,
        echo: BinaryIO | None = None,
        told: Callable[[Status], None] | None = None,
        command_of: CommandOf = serve_command,
        patience: Patience | None = None,
    ) -> None:
        """Nothing is read or started yet.

        Args:
            folder: Of the deployment, with a spec.
            token: Of that spec; another one means that this supervisor is not wanted any more.
            environ: What servers inherit; by default the environment of this process.
            echo: Gets what servers say, beside the log: it runs in the foreground, and stops when its terminal goes.
            told: Called with each status that is new.
            command_of: The command of a server.
            patience: How long to wait for what.
        """
        self._folder = folder
        self._token = token
        self._environ = os.environ if environ is None else environ
        self._echo = echo
        self._told = told
        self._command_of = command_of
        self._patience = Patience() if patience is None else patience
        self._stopping = asyncio.Event()
        self._stop_reason = ""

    async def run(self) -> int:
        """Supervise, in the main thread.

        Returns:
            The exit status: 1 when the deployment has failed, 0 when it was stopped or is not wanted.

        Raises:
            LLMError: Its folder cannot be used.
        """
        lock = acquire(self._folder.life_lock)
        if lock is None:
            return 0
        try:
            spec = self._wanted_spec()
            return 0 if spec is None or spec.model is None else await self._supervise(spec, lock)
        finally:
            lock.release()

    async def _supervise(self, spec: Spec, lock: LifeLock) -> int:
        status = StatusFile(self._folder.status, self._first_status(), self._told)
        starter = Starter(self._folder, status, self._command_of, self._environ, self._echo)
        life = Life(starter, status, self._patience, self._changed_spec)
        with self._signals(life):
            status.change()
            rounds = [
                asyncio.create_task(status.keep(self._patience.status_every_s)),
                asyncio.create_task(self._watch_folder(lock)),
            ]
            adopt_orphans()
            exit_status = self._tell_end(status, await self._until_end(life, spec))
            try:
                await life.close()
            except Exception:
                _logger.exception("Not all of it could be ended.")
            for each in rounds:
                each.cancel()
            status.change(server=[], starting=[])
            return exit_status

    async def _watch_folder(self, lock: LifeLock) -> None:
        """Stop when somebody has deleted the folder under a living deployment, which nobody could find any more."""
        missed = 0
        while missed < _FOLDER_MISSED:
            await asyncio.sleep(self._patience.status_every_s)
            missed = 0 if lock.is_at(self._folder.life_lock) else missed + 1
        self._stop("its folder was deleted")

    async def _until_end(self, life: Life, spec: Spec) -> BaseException:
        """Why it ended."""
        living = asyncio.create_task(life.live(spec))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({living, stopping}, return_when=asyncio.FIRST_COMPLETED)
        living.cancel()
        stopping.cancel()
        (error, _) = await asyncio.gather(living, stopping, return_exceptions=True)
        assert isinstance(error, BaseException)  # a life does not just return
        return error

    def _tell_end(self, status: StatusFile, error: BaseException) -> int:
        """At once, so that nobody takes it for one that serves while it ends what is open; returns the exit status."""
        status.change(phase="", ready_since=None)
        if isinstance(error, asyncio.CancelledError):
            status.change(state="stopped", reason=self._stop_reason)
            return 0
        if isinstance(error, DeploymentFailedError):
            _logger.error("%s", error)
            status.change(state="failed", reason=str(error), last_error=error.last_error)
        else:
            _logger.error("The supervisor failed.", exc_info=error)
            status.change(state="failed", reason=f"{type(error).__name__}: {error}")
        return 1

    def _wanted_spec(self) -> Spec | None:
        """What is asked; None: not of this supervisor."""
        spec = read_record(Spec, self._folder.spec)
        return spec if spec is not None and spec.token == self._token else None

    def _changed_spec(self) -> Spec | None:
        try:
            spec = self._wanted_spec()
        except UnreadableRecordError as error:
            _logger.error("%s", error)
            return None
        if spec is None:
            self._stop("not wanted any more")
        return spec if spec is not None and spec.model is not None else None

    def _first_status(self) -> Status:
        """With the port that it had before, and what was ready then."""
        before = None
        try:
            before = read_record(Status, self._folder.status)
        except UnreadableRecordError as error:
            _logger.warning("%s", error)
        own = Status(token=self._token, supervisor=ProcessIdentity.own())
        return own if before is None else own.model_copy(update={"port": before.port, "last_ready": before.last_ready})

    def _stop(self, reason: str) -> None:
        self._stop_reason = self._stop_reason or reason
        self._stopping.set()

    @contextmanager
    def _signals(self, life: Life) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        ends = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if self._echo is not None else [])]
        for number in ends:
            loop.add_signal_handler(number, self._stop, f"stopped by {number.name}")
        if self._echo is None:
            loop.add_signal_handler(signal.SIGHUP, life.changed.set)
        try:
            yield
        finally:
            for number in {*ends, signal.SIGHUP}:
                loop.remove_signal_handler(number)


def main() -> None:
    """Supervise the deployment that the command line names, and exit."""
    folder, token = sys.argv[1:]
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    try:
        sys.exit(asyncio.run(Supervisor(DeploymentFolder(Path(folder)), token).run()))
    except LLMError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

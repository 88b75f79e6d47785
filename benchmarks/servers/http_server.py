"""A server that is a command, asked over HTTP."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.served.loads import NEW_TOKENS, Answers, ServedLoad
from benchmarks.servers.contender import Task, Turn
from benchmarks.servers.health import probed
from benchmarks.servers.process import Child, free_port, running, server_environment, wait_until_ready
from mlflow_llm_plugins.loadtest import Distribution, Load, Target, run_load

PATIENCE_S = 600.0  # of a request
WARM_UP_CLIENTS = 2
VERSION_S = 60.0


@dataclass(frozen=True, slots=True)
class Address:
    """What a server's command is made from."""

    artifact: Path
    port: int
    rows: int  # requests at a time
    longest: int  # tokens of prompt and answer together


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A contender behind a port of the loopback interface."""

    artifact: str
    command: Callable[[Address], list[str]]
    path: str = "/v1/chat/completions"
    ready: str = "/ping"  # answers 200 when the server can be asked
    health: str = ""  # asked while loads run; empty: it is not
    answers: tuple[Answers, ...] = ("streams", "whole")
    knows_ignore_eos: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Path | None = None  # of an environment of its own
    asks_version: str = "version"  # argument of the program
    reason: str = ""  # why it cannot run here, where that is known

    def missing(self) -> str:
        """Looks for the program."""
        if self.program is not None and not shutil.which(self.program):
            return "not installed"
        return self.reason

    def versions(self) -> str:
        """Asks the program, which takes seconds."""
        if self.program is None or self.missing():
            return ""
        asked, environment = [str(self.program), self.asks_version], server_environment()
        try:
            done = subprocess.run(
                asked, env=environment, capture_output=True, text=True, timeout=VERSION_S, check=True
            )
        except (subprocess.SubprocessError, OSError):
            return ""
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""

    def run(self, turn: Turn) -> None:
        """Start the server, send it all loads, one after the other, and end it."""
        task = turn.task
        address = self._address(task)
        url = f"http://127.0.0.1:{address.port}"
        log = task.logs / f"{self.artifact}.log"
        with running(self.command(address), log, {**task.environment, **self.environment}) as child:
            try:
                wait_until_ready(child, url + self.ready)
                self._warm_up(url, task)
                for load in task.loads:
                    self._measure(child, url, load, turn)
            finally:
                turn.peak_bytes = child.peak_bytes

    def _measure(self, child: Child, url: str, load: ServedLoad, turn: Turn) -> None:
        target = self._target(url, load.answers)
        with probed(url + self.health) if self.health else nullcontext([]) as latencies:
            result = run_load(target, load.as_load(self.knows_ignore_eos), _bodies(turn.task.wording.prompts(load)))
        turn.results[load] = result
        turn.health[load] = Distribution.of(latencies)
        if result.failures:
            child.show_last_lines(f"answered {load.rhythm} with {result.failures}")
        child.check_alive()

    def _warm_up(self, url: str, task: Task) -> None:
        prompts = _bodies(list(task.warm_up()))
        load = Load(clients=WARM_UP_CLIENTS, requests=len(prompts), max_tokens=NEW_TOKENS)
        run_load(self._target(url, self.answers[0]), load, prompts)

    def _target(self, url: str, answers: Answers) -> Target:
        return Target(url=url, path=self.path, stream=answers == "streams", timeout_s=PATIENCE_S)

    def _address(self, task: Task) -> Address:
        return Address(
            artifact=task.artifacts / self.artifact,
            port=free_port(),
            rows=most_clients(task.loads),
            longest=longest(task),
        )


def _bodies(chats: Sequence[Any]) -> list[Any]:
    return [{"messages": chat} for chat in chats]


def longest(task: Task) -> int:
    """Tokens of prompt and answer together."""
    return max(task.wording.prompt_tokens(load.prompts) for load in task.loads) + NEW_TOKENS


def most_clients(loads: Sequence[ServedLoad]) -> int:
    return max((load.clients for load in loads if load.clients is not None), default=1)

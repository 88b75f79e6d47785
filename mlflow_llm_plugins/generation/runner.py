"""The seam between an engine and what makes its tokens."""

from __future__ import annotations

import threading
from typing import Protocol

from mlflow_llm_plugins.generation.stream import TokenStream


class Runner(Protocol):
    """Generates for open streams on a thread of its own."""

    name: str  # the key of ENGINES
    what: str  # is started, may die and is started again, for messages: "generation thread"
    cache_tokens: int | None  # tokens of the KV cache; None where nothing is allocated ahead
    disturbed: threading.Event  # set by the runner when its thread may have died, for a watchdog to look

    def start(self, stream: TokenStream) -> None:
        """Begin to push tokens into the stream, as soon as there is room."""

    def release(self, stream: TokenStream) -> None:
        """The stream has ended, for whatever reason: spend nothing more on it. Never blocks."""

    @property
    def steps(self) -> int:
        """How many steps the thread has begun; stands still while a step does not return, and when it is idle."""

    @property
    def owes_a_step(self) -> bool:
        """Whether a step has yet to return though no stream may be open any more, as far as the runner knows that."""

    def abandon_step(self) -> None:
        """A step has not returned in time: end it where that can be done, with the thread if need be. Never blocks."""

    def is_alive(self) -> bool:
        """Whether the thread runs."""

    def death(self) -> str:
        """Why the thread does not run; empty while nothing is known."""

    def restart(self) -> None:
        """Start a thread in place of the one that died; streams that were open have been failed before."""

    def begin_close(self) -> None:
        """The engine is being closed: start nothing more, and end a start that has not returned. Never blocks."""

    def close(self) -> None:
        """End the thread and free what the runner holds; open streams have been failed before."""

"""The seam between an engine and what makes its tokens."""

from __future__ import annotations

from typing import Protocol

from mlflow_llm_plugins.generation.stream import TokenStream


class Runner(Protocol):
    """Generates for open streams on a thread of its own."""

    name: str  # the key of ENGINES
    cache_tokens: int | None  # tokens of the KV cache; None where nothing is allocated ahead

    def start(self, stream: TokenStream) -> None:
        """Begin to push tokens into the stream, as soon as there is room."""

    def release(self, stream: TokenStream) -> None:
        """The stream has ended, for whatever reason: spend nothing more on it. Never blocks."""

    def failure(self) -> str | None:
        """Why no more tokens will come, or None while they do."""

    def close(self) -> None:
        """End the thread and free what the runner holds; open streams have been failed before."""

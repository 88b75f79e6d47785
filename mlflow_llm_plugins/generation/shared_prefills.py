"""Requests with the same prompt: one of them is prefilled, the others take its pages from the prefix cache.

The cache knows a page only when the step that wrote it is over, so prompts that are prefilled together share nothing.
Several answers to one prompt (`n`) come that way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation.stream import TokenStream

_logger = logging.getLogger(__name__)


class SharedPrefills:
    """Holds back a request while another one with the same prompt has no token yet; thread-safe."""

    def __init__(self, start: Callable[[TokenStream], None], page_size: int | None) -> None:
        """Take what really starts a request.

        Args:
            start: Called once for each stream, at once or when the first of its kind has got a token or ended.
            page_size: Tokens that must be in common for the cache to help; None holds nobody back.
        """
        self._start = start
        self._page_size = page_size
        self._waiting: dict[tuple[int, ...], list[TokenStream]] = {}  # by the prompt of who is prefilled
        self._leaders: dict[TokenStream, tuple[int, ...]] = {}
        self._lock = threading.Lock()  # of both

    def start(self, stream: TokenStream) -> None:
        """Start the request, now or when its prompt is in the cache."""
        prompt = stream.request.prompt_ids
        if self._page_size is not None and len(prompt) > self._page_size:
            key = tuple(prompt)
            with self._lock:
                if key in self._waiting:
                    self._waiting[key].append(stream)
                    return
                self._waiting[key] = []
                self._leaders[stream] = key
        self._start(stream)
        self.settle(stream)  # it may have ended before it was started, and nobody would tell those that wait

    def settle(self, stream: TokenStream) -> None:
        """The stream has got a token or has ended: start those that waited for it."""
        if stream not in self._leaders or not (stream.received or stream.ended):
            return
        with self._lock:
            key = self._leaders.pop(stream, None)
            followers = [] if key is None else self._waiting.pop(key)
        for follower in followers:
            if not follower.ended:
                self._start_alone(follower)

    def _start_alone(self, follower: TokenStream) -> None:
        """Whatever is wrong with one of them must reach neither the others nor the one they waited for."""
        try:
            self._start(follower)
        except Exception as error:
            _logger.exception("Starting a request failed.")
            follower.fail(GenerationError(f"The request could not be started: {type(error).__name__}: {error}"))

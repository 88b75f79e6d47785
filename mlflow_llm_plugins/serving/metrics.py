"""Prometheus metrics of a server, over all its workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.generation import EngineStats, GenerationOutput

_logger = logging.getLogger(__name__)

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # looked at when prometheus_client is imported
_SHARED = "mlflow-llm-metrics-"
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What is counted. One per process."""

    def __init__(self) -> None:
        """Share with the other workers, where this is one of several."""
        self._directory = share_with_workers()
        import prometheus_client as prometheus

        self._prometheus = prometheus
        self._registry = prometheus.CollectorRegistry()
        if self._directory is None:
            prometheus.ProcessCollector(registry=self._registry)
            prometheus.PlatformCollector(registry=self._registry)
        self._requests = self._counter("requests", "HTTP requests by route and status.", "route", "status")
        self._cancelled = self._counter(
            "cancellations", "Answers that were given up: the client was gone, or a drain."
        )
        self._stream_errors = self._counter("stream_errors", "Streams that ended with an error event.")
        self._decisions = self._counter("decisions", "Typed decisions.")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, without padding.")
        self._cached_tokens = self._counter("prompt_tokens_cached", "Of them, those found in the prefix cache.")
        self._completion_tokens = self._counter("completion_tokens", "Generated tokens.")
        self._first_token = self._histogram("time_to_first_token_seconds", "From submission to the first token.")
        self._between = self._histogram("inter_token_latency_seconds", "Gaps between the tokens of an answer.")
        self._whole = self._histogram("request_duration_seconds", "From submission to the last token.")
        self._running = self._gauge("requests_running", "Answers that have a first token and are not finished.")
        self._queued = self._gauge("requests_queued", "Answers that wait for their first token.")
        self._cache = self._gauge("kv_cache_tokens", "Tokens that the KV cache holds.")
        self._cache_used = self._gauge("kv_cache_used_tokens", "Of them, those that running answers take.")
        self._restarts = self._gauge("engine_restarts", "Restarts of generation threads that died.")

    def requested(self, route: str, status: int) -> None:
        """An HTTP request has been answered."""
        self._requests.labels(route, str(status)).inc()

    def answered(self, outputs: Sequence[GenerationOutput], per_prompt: int = 1) -> None:
        """All answers to a request are complete, `per_prompt` to each prompt, which counts once, as in `usage`."""
        for first in outputs[::per_prompt]:
            self._prompt_tokens.inc(first.prompt_tokens)
            self._cached_tokens.inc(first.cached_tokens or 0)
        for output in outputs:
            self._completion_tokens.inc(output.completion_tokens)
            times = output.token_times
            if times:
                self._first_token.observe(times[0])
                self._whole.observe(times[-1])
            for earlier, later in pairwise(times):
                self._between.observe(later - earlier)

    def scored(self, prompt_tokens: int) -> None:
        """Prompts were read for their own sake."""
        self._prompt_tokens.inc(prompt_tokens)

    def decided(self, questions: int, input_tokens: int) -> None:
        """So many questions were answered."""
        self._decisions.inc(questions)
        self._prompt_tokens.inc(input_tokens)

    def cancelled(self, answers: int) -> None:
        """So many answers were given up."""
        if answers:
            self._cancelled.inc(answers)

    def stream_failed(self) -> None:
        """A stream ended with an error event."""
        self._stream_errors.inc()

    def observe(self, stats: EngineStats) -> None:
        """Look at the engine."""
        self._running.set(stats.running_requests)
        self._queued.set(max(0, stats.open_requests - stats.running_requests))
        self._cache.set(stats.cache_tokens)
        self._cache_used.set(stats.cache_used_tokens)
        self._restarts.set(stats.restarts)

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        registry = self._registry
        if self._directory is not None:
            from prometheus_client import multiprocess

            forget_dead_workers(self._directory)
            registry = self._prometheus.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return self._prometheus.generate_latest(registry), self._prometheus.CONTENT_TYPE_LATEST

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._prometheus.Counter(f"mlflow_llm_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Any:
        return self._prometheus.Histogram(f"mlflow_llm_{name}", text, registry=self._registry, buckets=_LATENCIES)

    def _gauge(self, name: str, text: str) -> Any:
        return self._prometheus.Gauge(f"mlflow_llm_{name}", text, registry=self._registry, multiprocess_mode="livesum")


def share_with_workers() -> Path | None:
    """The folder through which the workers of one server share their counts; None of a server without workers."""
    if multiprocessing.parent_process() is None:
        return None
    if "prometheus_client" in sys.modules and _DIRECTORY not in os.environ:
        _logger.warning(
            "/metrics shows one worker only: prometheus_client was imported before the server could share."
        )
        return None
    remove_folders_of_the_dead()
    folder = Path(os.environ.setdefault(_DIRECTORY, str(_folder(os.getppid()))))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user.")
    return folder


def forget_dead_workers(folder: Path) -> None:
    """Take back the gauges of workers that were killed; what they counted stays."""
    import psutil
    from prometheus_client import multiprocess

    pids = {int(found[1]) for file in folder.glob("*.db") if (found := re.search(r"_(\d+)\.db$", file.name))}
    for pid in pids:
        if not psutil.pid_exists(pid):
            multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def remove_folders_of_the_dead() -> None:
    """Clear away after servers that could not."""
    import psutil

    for folder in Path(tempfile.gettempdir()).glob(f"{_SHARED}*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _folder(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"{_SHARED}{os.getuid()}-{pid}"

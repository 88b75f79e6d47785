"""How many bytes a second this machine reads from memory: `python -m benchmarks.bandwidth DEVICE RESULT [--quick]`.

The methods are those of STREAM and of every roofline: passes over arrays of 512 MiB, far larger than caches, by all
granted threads. `copy` reads one array and writes one, `triad` reads two and writes one, `sum` only reads one, as a
decode step does. The bandwidth is that of the fastest pass of the best method, and counts what the program reads and
writes, not what a cache fetches besides.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.hardware import granted_cpus

ARRAY_BYTES, QUICK_BYTES = 2**29, 2**26
PASSES = 8


def bandwidth(device: str, array_bytes: int) -> float:
    """Bytes a second."""
    import torch

    torch.set_num_threads(granted_cpus())
    one, other, third = (torch.rand(array_bytes // 4, device=device) for _ in range(3))  # float32
    methods: tuple[tuple[int, Callable[[], Any]], ...] = (
        (2, lambda: third.copy_(one)),
        (3, lambda: torch.add(one, other, alpha=3.0, out=third)),
        (1, lambda: one.sum()),
    )
    return max(arrays * array_bytes / _fastest_pass(run, device) for arrays, run in methods)


def _fastest_pass(run: Callable[[], Any], device: str) -> float:
    """Seconds; the first pass, which touches the pages, does not count."""
    _timed(run, device)
    return min(_timed(run, device) for _ in range(PASSES))


def _timed(run: Callable[[], Any], device: str) -> float:
    import torch

    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    device, result, *quick = sys.argv[1:]
    found = bandwidth(device, QUICK_BYTES if quick else ARRAY_BYTES)
    Path(result).write_text(json.dumps({"bytes_per_second": found}), encoding="utf-8")


if __name__ == "__main__":
    main()

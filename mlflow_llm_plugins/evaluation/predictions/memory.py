"""How much memory this process takes at most while something runs."""

from __future__ import annotations

import sys
import threading
from typing import Any

_INTERVAL_S = 1.0  # each look takes a CPU from an engine that uses them all
_END_S = 5.0  # it waits for nothing but the event


class PeakMemory:
    """`with PeakMemory() as peak: ...`, then `peak.rss_bytes` and `peak.gpu_bytes`.

    Exact where the process never took more before, by Linux's own record, and for GPU memory. Else a thread looks
    every second, and shorter peaks may be missed.
    """

    rss_bytes: int = 0  # resident, of the whole process
    gpu_bytes: int | None = None  # allocated by torch, all devices together; None: torch uses no CUDA here

    def __enter__(self) -> PeakMemory:
        """Begin; torch's own record of peaks is reset."""
        import psutil

        self._process = psutil.Process()
        self._highest_before = _highest_rss_bytes()
        self._ending = threading.Event()
        cuda = _cuda()
        for device in range(cuda.device_count() if cuda else 0):
            cuda.reset_peak_memory_stats(device)
        self._look()
        self._thread = threading.Thread(target=self._watch, name="llm-peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread and read the peaks."""
        self._ending.set()
        self._thread.join(_END_S)
        self._look()
        if (highest := _highest_rss_bytes()) > self._highest_before:
            self.rss_bytes = highest
        if cuda := _cuda():
            self.gpu_bytes = sum(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))

    def _watch(self) -> None:
        while not self._ending.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self.rss_bytes = max(self.rss_bytes, self._process.memory_info().rss)


def _highest_rss_bytes() -> int:
    """The most resident memory that this process ever had; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
    return int(line.split()[1]) * 1024  # it is told in kB


def _cuda() -> Any:
    """`torch.cuda` where something in this process uses it already; None otherwise, and nothing is started."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None

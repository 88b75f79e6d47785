"""Pools of threads that are all there from the start, so that their number says nothing about the load."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

_START_S = 30.0


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads run already; whoever takes it shuts it down.

    Args:
        threads: How many.
        name: What they are called, with a number behind it.
    """
    pool = ThreadPoolExecutor(threads, name)
    all_are_there = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(all_are_there.wait, _START_S)
    all_are_there.wait(_START_S)
    return pool

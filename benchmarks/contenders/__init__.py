"""The engines under test: each is opened for one load, runs it, and tells when its tokens came.

To add one: a class with `run` and `close`, and a row in `CONTENDERS`. Everything heavy is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.contenders.contender import Contender, Task, Tick, Trace
from benchmarks.contenders.generate import Generate
from benchmarks.contenders.openvino import openvino
from benchmarks.contenders.ours import ours
from benchmarks.contenders.reads import Reads
from benchmarks.contenders.stock import Stock
from benchmarks.contenders.vllm import Vllm

CONTENDERS: dict[str, Callable[[Task], Contender]] = {
    "ours": ours,
    "openvino": openvino,
    "stock": Stock,
    "generate": Generate,
    "vllm": Vllm,
}

__all__ = ["CONTENDERS", "Contender", "Reads", "Task", "Tick", "Trace"]

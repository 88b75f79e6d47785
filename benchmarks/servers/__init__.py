"""The servers under test: each takes turns, in which fresh processes of it answer every load.

To add one: an `HttpServer`, or another class with what `Contender` asks for, and a row in `contenders`. What it serves
is a row of `artifacts.ARTIFACTS`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers.contender import Contender, Task, Turn
from benchmarks.servers.engine import Engine
from benchmarks.servers.llama_cpp_server import llama_cpp_server
from benchmarks.servers.mlflow_models import ours, stock
from benchmarks.servers.process import ServerError
from benchmarks.servers.transformers_serve import transformers_serve
from benchmarks.servers.vllm_serve import vllm_serve

OURS = "ours"
_GENAI = "openvino_genai"
_OF_OURS = (OURS, "ours-openvino", "ours-openvino-int8", "ours-openvino-int4", "ours-nf4", "ours-int8")
NAMES = (
    *("stock", "transformers-serve", "vllm", "llama-cpp"),
    *_OF_OURS,
    *("engine", "engine-openvino-int8", "genai-int8"),
)
USUAL = (
    *("stock", "transformers-serve", "vllm", "llama-cpp"),
    *(OURS, "ours-openvino", "ours-openvino-int8", "genai-int8"),
)


def contenders(transformers: Path, vllm: Path) -> dict[str, Contender]:
    """Name -> contender, in the order of `NAMES`.

    Args:
        transformers: Executable of transformers, with what its `serving` extra brings.
        vllm: Executable of vLLM.
    """
    found: dict[str, Contender] = {
        "stock": stock(),
        "transformers-serve": transformers_serve(transformers),
        "vllm": vllm_serve(vllm),
        "llama-cpp": llama_cpp_server(),
        **{name: ours(name) for name in _OF_OURS},
        "engine": Engine(),
        "engine-openvino-int8": Engine("ours-openvino-int8", needs=_GENAI),
        "genai-int8": Engine("ours-openvino-int8", asked="genai", needs=_GENAI),
    }
    return {name: found[name] for name in NAMES}


__all__ = ["NAMES", "OURS", "USUAL", "Contender", "ServerError", "Task", "Turn", "contenders"]

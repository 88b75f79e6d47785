"""The engine of this package on the same weights as an OpenVINO model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import Task
from benchmarks.contenders.ours import OurEngine
from benchmarks.contenders.reads import Reads
from mlflow_llm_plugins.generation.openvino.model_folder import ModelFolder
from mlflow_llm_plugins.hardware import probe

DEFAULT_WEIGHTS = "int8"
WEIGHTS = ("none", "fp16", "int8", "int4")
EXPORT_S = 900.0
_BYTES = {"f32": 4, "bf16": 2, "f16": 2}  # of a weight, by the precision of the arithmetic
_FILE_BYTES = {"none": 4, "fp16": 2}  # of a weight in the file


def openvino(task: Task) -> OurEngine:
    """The engine `openvino`; options are EngineSettings and `weights`, one of `WEIGHTS`."""
    settings = dict(task.options)
    weights = settings.pop("weights", DEFAULT_WEIGHTS)
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    folder = _exported(task, weights)
    return OurEngine(task, folder, "openvino", _reads(folder, weights, settings), settings)


def _exported(task: Task, weights: str) -> Path:
    """The folder of the model; made by a process of its own, once for all runs."""
    folder = task.shared / f"{task.model}-{weights}"
    if not folder.is_dir():
        command = [sys.executable, "-m", "benchmarks.contenders.exported", task.model, weights, str(folder)]
        subprocess.run(command, timeout=EXPORT_S, check=True)
    return folder


def _reads(folder: Path, weights: str, settings: Mapping[str, Any]) -> Reads:
    """Weights in 8 and 4 bits stay as they are; others have the precision of the arithmetic once they are loaded."""
    cpu, model = probe().cpu, ModelFolder.read(folder)
    precision = settings.get("inference_precision") or ("bf16" if cpu.has_avx512_bf16 or cpu.has_amx else "f32")
    loaded = _BYTES[precision] / _FILE_BYTES[weights] if weights in _FILE_BYTES else 1.0
    return Reads(model.weight_bytes * loaded, model.kv_bytes_per_token(settings.get("kv_cache_precision")))

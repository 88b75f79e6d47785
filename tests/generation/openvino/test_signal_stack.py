"""A process that has compiled OpenVINO models takes a signal as any other does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

EXPORT = """
import json, signal, sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import byte_tokenizer, random_model
recipe = OpenVINORecipe(**json.loads(sys.argv[2]))
export_model(random_model("llama"), byte_tokenizer(), Path(sys.argv[1]), recipe)
"""
SCORERS = """
import signal, sys
from pathlib import Path
from mlflow_llm_plugins.generation.openvino.scoring.forward import ForwardModel
models = [ForwardModel(Path(sys.argv[1]), {}, lambda: None) for _ in range(3)]
while models:
    del models[0]  # the first one first, so that each gives back what its predecessor had
"""
PIPELINES = """
import signal, sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.components import Components
from mlflow_llm_plugins.quantized_llm.formats import RETURNED
made = [RETURNED["openvino"]["pipeline"](Components(Path(sys.argv[1]), None)) for _ in range(2)]
while made:
    del made[0]
"""
CALIBRATED = {"weight_format": "int4", "group_size": 32, "calibration": ["a b c"] * 8}
INTERRUPT = """
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def interrupted_after(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", script + INTERRUPT, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "recipe",
    [
        {"weight_format": "none"},
        {"weight_format": "int8"},
        {
            "weight_format": "int4",
            "group_size": 32,
            "awq": True,
            "scale_estimation": True,
            "calibration": ["a b c"] * 8,
        },
    ],
    ids=["none", "int8", "calibrated int4"],
)
def test_an_export_leaves_ctrl_c_alone(tmp_path, recipe):
    done = interrupted_after(EXPORT, tmp_path, json.dumps(recipe))
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["interrupted"]), done.stderr[-2000:]


@pytest.mark.parametrize("script", [SCORERS, PIPELINES], ids=["scorers", "pipelines"])
def test_models_whose_lives_overlap_leave_ctrl_c_alone(ir_folder, script):
    done = interrupted_after(script, ir_folder("llama"))
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["interrupted"]), done.stderr[-2000:]

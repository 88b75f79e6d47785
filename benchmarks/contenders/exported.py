"""The OpenVINO model of a shape: `python -m benchmarks.contenders.exported MODEL WEIGHTS FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.models import SHAPES, byte_level_tokenizer, random_model


def export(name: str, weights: str, folder: Path) -> None:
    """Write the folder; it is there whole or not at all."""
    from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
    from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe

    shape = SHAPES[name]
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True)
    recipe = OpenVINORecipe(weight_format=weights)
    export_model(random_model(shape, "cpu"), byte_level_tokenizer(shape.vocabulary), unfinished, recipe)
    os.replace(unfinished, folder)


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

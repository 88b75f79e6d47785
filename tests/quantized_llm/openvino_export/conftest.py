"""One exported folder for tests that only read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlflow_llm_plugins.quantized_llm.openvino_export.export import ExportReport, export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.models import byte_tokenizer
from tests.quantized_llm.openvino_export.architectures import build


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, ExportReport]]:
    """(model, settings of the recipe) -> a new folder and the report."""

    def run(model: Any, weight_format: str = "none", **settings: Any) -> tuple[Path, ExportReport]:
        folder = tmp_path_factory.mktemp("exported")
        recipe = OpenVINORecipe.model_validate({"weight_format": weight_format, **settings})
        return folder, export_model(model, byte_tokenizer(), folder, recipe)

    return run


@pytest.fixture(scope="session")
def exported_llama(export: Callable[..., tuple[Path, ExportReport]]) -> tuple[Path, ExportReport]:
    """A float32 Llama as it is; read only."""
    return export(build("llama"))

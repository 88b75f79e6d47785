"""A directory with an OpenVINO model of another exporter: what is recorded of it, and what goes before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.openvino_folder import OpenVINOFolder
from mlflow_llm_plugins.quantized_llm.openvino_model import load_openvino

MODEL = "openvino_model.xml"


@pytest.fixture
def foreign(exported_llama, tmp_path) -> Path:
    return shutil.copytree(exported_llama[0], tmp_path / "foreign")


def set_mode(folder: Path, mode: str) -> None:
    """As nncf records it."""
    record = f'<nncf><weight_compression><group_size value="32" /><mode value="{mode}" /></weight_compression></nncf>'
    text = (folder / MODEL).read_text(encoding="utf-8")
    (folder / MODEL).write_text(text.replace("</net>", f"<rt_info>{record}</rt_info></net>"), encoding="utf-8")


def found(folder: Path) -> OpenVINOFolder:
    described = OpenVINOFolder.find(folder)
    assert described is not None
    return described


@pytest.mark.parametrize("mode", ["nf4", "mxfp4"])
def test_another_mode_of_nncf_is_recorded_and_loads(foreign, tmp_path, mode):
    set_mode(foreign, mode)
    quantized_llm.save_model(foreign, tmp_path / "artifact")
    artifact = Artifact.open(tmp_path / "artifact")
    recorded = artifact.record.quantization
    assert recorded is not None
    assert (recorded.method, recorded.bits, recorded.applied) == (f"openvino-{mode}", None, "when saved")
    assert artifact.record.as_params()["llm.quantization"] == f"openvino-{mode}"
    assert artifact.record.as_params()["llm.group_size"] == "32"
    assert load_openvino(artifact, ModelConfig(), trust_remote_code=False).model == artifact.path / "model"


def test_weights_that_are_not_quantized_have_no_method(foreign):
    assert found(foreign).quantization is None


def test_safetensors_go_before_an_openvino_model_with_one_warning(foreign, caplog):
    (foreign / "model.safetensors").touch()
    assert OpenVINOFolder.find(foreign) is None
    assert caplog.messages == [
        f"{foreign} has safetensors and an OpenVINO model: the safetensors are taken. To log the OpenVINO model, give "
        "a directory with it, config.json and the tokenizer's files, without safetensors."
    ]


def test_an_openvino_model_alone_is_no_reason_to_warn(foreign, caplog):
    assert found(foreign).weight_format == "fp32"
    assert caplog.messages == []

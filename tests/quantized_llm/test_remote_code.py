"""Models with Python code of their own: only when asked for, at save and at load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_llm_plugins import quantized_llm

MODELING = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of an architecture that only its own code knows."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(MODELING)
    return folder


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_own_code_is_stored_and_runs_when_asked_for(own_code: Path, tmp_path: Path, quantization: str | None) -> None:
    quantized_llm.save_model(own_code, tmp_path / "artifact", trust_remote_code=True, quantization=quantization)
    shutil.rmtree(own_code)

    assert Model.load(str(tmp_path / "artifact")).flavors["quantized_llm"]["trust_remote_code"] is True
    with pytest.raises(MlflowException, match="load it with trust_remote_code=True"):
        quantized_llm.load_model(str(tmp_path / "artifact"))
    loaded = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="model", trust_remote_code=True)
    assert type(loaded).__name__ == "OwnForCausalLM"


def test_own_code_does_not_run_unasked(own_code: Path, tmp_path: Path) -> None:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(own_code, tmp_path / "artifact")

    assert caught.value.message == (
        f"{own_code} has a 'own-llama' model that only its own Python code knows. If you have read that code, pass "
        "trust_remote_code=True, for a Hub id with a commit as revision."
    )

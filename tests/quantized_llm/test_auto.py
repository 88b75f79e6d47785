"""What "auto" stands for: for each machine one choice with a reason, told, and recorded where people look."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.hardware import Accelerator, Cpu, Hardware
from mlflow_llm_plugins.quantized_llm.auto import (
    Choice,
    Situation,
    choose_engine,
    choose_quantization,
    tell,
    why_not_exported,
)
from tests.models import KINDS, random_model

BILLION = 10**9
NO_EXPORT = "OPT cannot be exported"
MACHINES = {
    "plain": Hardware(cpu=Cpu(has_avx2=True)),
    "avx512": Hardware(cpu=Cpu(has_avx512=True)),
    "bf16": Hardware(cpu=Cpu(has_avx512=True, has_avx512_bf16=True)),
    "amx": Hardware(cpu=Cpu(has_amx=True)),
    "t4": Hardware((Accelerator("Tesla T4", 16 * BILLION, compute_capability=(7, 5)),)),
    "v100": Hardware((Accelerator("Tesla V100", 32 * BILLION, compute_capability=(7, 0)),)),
    "gpu of unknown memory": Hardware((Accelerator("NVIDIA X"),)),
}


def situation(machine: str, **changes: Any) -> Situation:
    usual = {"parameters": BILLION, "why_not_openvino": None, "has_bitsandbytes": True, "free_bytes": 16 * BILLION}
    return Situation(machine=MACHINES[machine], **{**usual, **changes})


@pytest.mark.parametrize(
    ("machine", "changes", "method", "reason"),
    [
        ("plain", {}, "openvino-int8", "the model runs on the CPU, where OpenVINO is fastest"),
        ("avx512", {}, "openvino-int8", "the model runs on the CPU, where OpenVINO is fastest"),
        (
            "plain",
            {"parameters": 12 * BILLION},
            "openvino-int4",
            "12.0 GB of 8-bit weights leave no room in the 16.0 GB of memory that are free",
        ),
        ("plain", {"parameters": None}, "openvino-int8", "the model runs on the CPU, where OpenVINO is fastest"),
        (
            "avx512",
            {"why_not_openvino": NO_EXPORT},
            "nf4",
            "OPT cannot be exported, and with AVX-512 4 bits are faster than float32",
        ),
        (
            "plain",
            {"why_not_openvino": NO_EXPORT},
            "none",
            "OPT cannot be exported; dtype='float32' is the fastest without quantization here",
        ),
        (
            "bf16",
            {"why_not_openvino": NO_EXPORT, "has_bitsandbytes": False},
            "none",
            "OPT cannot be exported; dtype='bfloat16' is the fastest without quantization here",
        ),
        (
            "amx",
            {"why_not_openvino": NO_EXPORT},
            "none",
            "OPT cannot be exported; dtype='bfloat16' is the fastest without quantization here",
        ),
        ("t4", {}, "int8", "1.0 GB of 8-bit weights fit the Tesla T4"),
        ("t4", {"parameters": 14 * BILLION}, "nf4", "14.0 GB of 8-bit weights leave no room on the Tesla T4"),
        ("t4", {"parameters": None}, "nf4", "the memory of the Tesla T4 or the size of the model is not known"),
        (
            "gpu of unknown memory",
            {},
            "nf4",
            "the memory of the NVIDIA X or the size of the model is not known",
        ),
        ("v100", {}, "nf4", "the Tesla V100 has no instructions for 8 bits"),
        (
            "t4",
            {"has_bitsandbytes": False},
            "none",
            "bitsandbytes is not installed (pip install 'mlflow-llm-plugins[torch]')",
        ),
    ],
)
def test_each_machine_gets_its_method_with_the_reason(machine, changes, method, reason):
    assert choose_quantization(situation(machine, **changes)) == Choice(method, reason)


@pytest.mark.parametrize(
    ("machine", "changes", "engine", "reason"),
    [
        ("plain", {}, "openvino", "the model runs on the CPU, where OpenVINO is several times faster than torch"),
        ("avx512", {"why_not_openvino": NO_EXPORT}, "transformers", NO_EXPORT),
        ("t4", {}, "transformers", "the machine has a GPU (Tesla T4), which OpenVINO is not used for"),
    ],
)
def test_each_machine_gets_its_engine_with_the_reason(machine, changes, engine, reason):
    assert choose_engine(situation(machine, **changes)) == Choice(engine, reason)


def config_of(kind: str) -> dict[str, Any]:
    config: dict[str, Any] = random_model(kind).config.to_dict()
    return {**config, "architectures": [KINDS[kind].model_class]}


def test_a_usual_model_can_be_exported_here():
    assert why_not_exported(config_of("llama")) is None


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_openvino_cannot_express_has_its_name_in_the_reason(kind):
    reason = why_not_exported(config_of(kind))
    assert reason is not None
    assert kind in reason.lower()


def test_a_choice_is_told_and_noted_on_the_active_run(tracking, caplog):
    with mlflow.start_run() as run, caplog.at_level(logging.WARNING):
        tell("engine", Choice("openvino", "it is faster"))
    assert "engine='auto': 'openvino', since it is faster." in caplog.messages
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert (tags["llm.engine"], tags["llm.engine_reason"]) == ("openvino", "it is faster")


def test_without_a_run_a_choice_is_told_alone(tracking, caplog):
    with caplog.at_level(logging.WARNING):
        tell("quantization", Choice("nf4", "it is smaller"))
    assert "quantization='auto': 'nf4', since it is smaller." in caplog.messages
    assert mlflow.active_run() is None


@pytest.fixture
def machine(monkeypatch):
    """A function: makes this machine another one."""
    from mlflow_llm_plugins import hardware

    def become(name: str) -> None:
        monkeypatch.setattr(hardware, "probe", lambda: MACHINES[name])

    return become


def test_a_model_that_is_logged_with_auto_has_choice_and_reason_in_its_params(tracking, machine, checkpoint: Path):
    machine("plain")
    info = quantized_llm.log_model(checkpoint, name="chat", quantization="auto")
    params = mlflow.get_logged_model(info.model_id).params
    assert params["llm.quantization"] == "openvino-int8"
    assert params["llm.quantization_reason"] == "the model runs on the CPU, where OpenVINO is fastest"
    assert params["llm.weights_format"] == "openvino"


def test_quantized_weights_stay_as_they_are_whatever_auto_would_choose(
    tracking, machine, checkpoint, tmp_path, caplog
):
    machine("plain")
    quantized_llm.save_model(checkpoint, tmp_path / "nf4", quantization="nf4")
    with caplog.at_level(logging.WARNING):
        quantized_llm.save_model(tmp_path / "nf4/model", tmp_path / "again", quantization="auto")
    assert "quantization='auto': 'none', since the weights stay as they are." in caplog.messages
    assert (tmp_path / "again/model/model.safetensors").is_file()


def test_auto_takes_no_settings(checkpoint, tmp_path):
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        quantized_llm.save_model(checkpoint, tmp_path / "model", quantization={"method": "auto", "group_size": 64})
    assert caught.value.message == "quantization='auto' takes no settings, got group_size=64. Leave them out."

"""What "auto" stands for: for each machine one choice with a reason, told, and recorded where people look."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.models import Model

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.errors import HardwareError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.memory import memory_to_open, plan_beside_weights
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.hardware import Accelerator, Cpu, Hardware
from mlflow_llm_plugins.quantized_llm.auto import (
    Choice,
    Situation,
    choose_engine,
    choose_quantization,
    tell,
    why_not_exported,
)
from mlflow_llm_plugins.quantized_llm.export_cache import FOLDER_VARIABLE
from tests.models import KINDS, byte_tokenizer, random_model, save_checkpoint

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
            {"parameters": 14 * BILLION},
            "openvino-int4",
            "14.0 GB of 8-bit weights leave no room in the 16.0 GB of memory that are free",
        ),
        (
            "plain",
            {"parameters": 40 * BILLION},
            "none",
            "20.0 GB of 4-bit weights leave no room in the 16.0 GB of memory that are free; dtype='float32' is the "
            "fastest without quantization here",
        ),
        (
            "avx512",
            {"parameters": 40 * BILLION},
            "nf4",
            "20.0 GB of 4-bit weights leave no room in the 16.0 GB of memory that are free, and with AVX-512 4 bits "
            "are faster than float32",
        ),
        ("t4", {"needs_openvino": True}, "openvino-int8", "the model runs on the CPU, where OpenVINO is fastest"),
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


@pytest.mark.parametrize("parameters", [BILLION, 8 * BILLION, 32 * BILLION])
@pytest.mark.parametrize(
    ("share", "spare", "method"),
    [(1.0, 0, "openvino-int8"), (1.0, -1, "openvino-int4"), (0.5, 0, "openvino-int4"), (0.5, -1, "none")],
)
def test_the_choice_is_the_largest_that_the_engine_opens(parameters, share, spare, method):
    free = memory_to_open(int(share * parameters)) + spare
    assert choose_quantization(situation("plain", parameters=parameters, free_bytes=free)).value == method


@pytest.mark.parametrize(
    ("parameters", "kv_bytes_per_token"),
    [(BILLION // 10, 24_000), (BILLION, 100_000), (8 * BILLION, 140_000), (70 * BILLION, 660_000)],
)
@pytest.mark.parametrize("method", ["openvino-int8", "openvino-int4"])
def test_the_engine_finds_room_for_a_cache_beside_what_was_chosen(parameters, kv_bytes_per_token, method):
    weight_bytes = parameters if method == "openvino-int8" else parameters // 2
    free = memory_to_open(weight_bytes)
    assert choose_quantization(situation("plain", parameters=parameters, free_bytes=free)).value == method
    plan = plan_beside_weights(EngineSettings(), 4096, kv_bytes_per_token, weight_bytes=weight_bytes, available=free)
    assert plan.tokens >= 128


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"why_not_openvino": NO_EXPORT},
            UnsupportedFeatureError,
            "quantization='auto' for the engine 'openvino': OPT cannot be exported. Leave engine out to have another "
            "one chosen.",
        ),
        (
            {"parameters": 40 * BILLION},
            HardwareError,
            "quantization='auto' for the engine 'openvino': 20.0 GB of 4-bit weights leave no room in the 16.0 GB of "
            "memory that are free. Free memory, or leave engine out.",
        ),
    ],
)
@pytest.mark.parametrize("machine", ["plain", "t4"])
def test_an_engine_that_was_named_and_cannot_be_had_is_an_error_with_the_reason(machine, changes, error, message):
    with pytest.raises(error) as caught:
        choose_quantization(situation(machine, needs_openvino=True, **changes))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("engine", "why_not", "needs_openvino"),
    [
        (None, None, False),
        ("auto", None, False),
        ("openvino", None, True),
        ("transformers", "the engine is 'transformers'", False),
        ("generate", "the engine is 'generate'", False),
        ("a.b:open", "the engine is 'a.b:open'", False),
    ],
)
def test_an_engine_that_was_named_is_part_of_the_situation(engine, why_not, needs_openvino):
    found = Situation.of(config_of("llama"), BILLION, engine=engine)
    assert (found.why_not_openvino, found.needs_openvino) == (why_not, needs_openvino)


@pytest.mark.parametrize(
    ("machine", "changes", "engine", "reason"),
    [
        ("plain", {}, "openvino", "the model runs on the CPU, where OpenVINO is several times faster than torch"),
        ("avx512", {"why_not_openvino": NO_EXPORT}, "transformers", NO_EXPORT),
        (
            "plain",
            {"weight_bytes": 14 * BILLION},
            "transformers",
            "14.0 GB of weights leave no room in the 16.0 GB of memory that are free",
        ),
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


@pytest.mark.parametrize("engine", ["transformers", "generate"])
def test_an_engine_of_torch_gets_a_method_of_torch(machine, checkpoint, tmp_path, engine):
    machine("plain")
    quantized_llm.save_model(checkpoint, tmp_path / "a", quantization="auto", engine_config={"engine": engine})
    section = Model.load(str(tmp_path / "a")).flavors["quantized_llm"]
    assert section["quantization"] is None
    assert section["quantization_reason"].startswith(f"the engine is {engine!r}; ")


def test_the_engine_openvino_gets_its_own_method_on_a_machine_with_a_gpu(machine, checkpoint, tmp_path):
    machine("t4")
    config = {"engine": "openvino"}
    quantized_llm.save_model(checkpoint, tmp_path / "a", quantization="auto", engine_config=config)
    assert Model.load(str(tmp_path / "a")).flavors["quantized_llm"]["quantization"]["method"] == "openvino-int8"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A checkpoint that OpenVINO can express by its config.json, and whose export is refused when it is proven."""
    model = random_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    return save_checkpoint(tmp_path / "broken", model, byte_tokenizer())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))


WHY_NOT = "LlamaForCausalLM cannot be exported to OpenVINO: its log-probabilities are no finite numbers"


def test_an_export_that_fails_is_a_reason_to_choose_again_when_it_is_logged(machine, broken, tmp_path, caplog):
    machine("plain")
    with caplog.at_level(logging.WARNING):
        quantized_llm.save_model(broken, tmp_path / "a", quantization="auto")
    reason = f"{WHY_NOT}; dtype='float32' is the fastest without quantization here"
    assert f"quantization='auto': 'none', since {reason}." in caplog.messages
    section = Model.load(str(tmp_path / "a")).flavors["quantized_llm"]
    assert (section["quantization"], section["quantization_reason"]) == (None, reason)
    assert section["weights"]["format"] == "safetensors"
    assert (tmp_path / "a/model/model.safetensors").is_file()
    assert not list((tmp_path / "a/model").glob("openvino*"))


@pytest.mark.parametrize(
    ("options", "config", "what"),
    [
        ({}, {"quantization": "auto"}, "quantization"),
        ({"engine_config": {"quantization": "auto"}}, {}, "quantization"),
        ({"quantization": "auto", "save_pretrained": False}, {}, "quantization"),
        ({}, {"engine": "auto"}, "engine"),
        ({}, {"engine": "auto", "quantization": "auto"}, "engine"),
    ],
    ids=["at load", "recorded", "chosen when logged", "engine", "both"],
)
def test_an_export_that_fails_is_a_reason_to_choose_again_when_it_is_loaded(
    machine, broken, cache, tmp_path, caplog, options, config, what
):
    machine("plain")
    quantized_llm.save_model(broken, tmp_path / "a", **options)
    with caplog.at_level(logging.WARNING):
        model = quantized_llm.load_model(str(tmp_path / "a"), return_type="model", **config)
    assert type(model).__name__ == "LlamaForCausalLM"
    chosen = {"quantization": "none", "engine": "transformers"}[what]
    assert any(text.startswith(f"{what}='auto': {chosen!r}, since {WHY_NOT}") for text in caplog.messages)


@pytest.mark.parametrize(
    "config",
    [{"engine": "openvino"}, {"engine": "openvino", "quantization": "auto"}, {"quantization": "openvino-int8"}],
)
def test_an_export_that_was_asked_for_and_fails_is_an_error(machine, broken, cache, tmp_path, config):
    machine("plain")
    quantized_llm.save_model(broken, tmp_path / "a")
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        quantized_llm.load_model(str(tmp_path / "a"), **config)
    assert caught.value.message == f"{WHY_NOT}."


def test_what_auto_chooses_opens_in_the_memory_that_it_needs(machine, checkpoint, cache, tmp_path, monkeypatch):
    """The engine itself says whether it opens, told the same of the memory."""
    from mlflow_llm_plugins import hardware
    from mlflow_llm_plugins.generation.openvino import engine

    machine("plain")
    quantized_llm.save_model(checkpoint, tmp_path / "a")
    parameters = Model.load(str(tmp_path / "a")).flavors["quantized_llm"]["parameters"]
    for module in (hardware, engine):
        monkeypatch.setattr(module, "available_memory_bytes", lambda: memory_to_open(parameters))
    model = mlflow.pyfunc.load_model(str(tmp_path / "a"), model_config={"quantization": "auto"})
    try:
        assert model.get_raw_model().stats().engine == "openvino"
        assert model.predict(["Hello"], params={"max_tokens": 2})
    finally:
        model.get_raw_model().close()

"""Loading natively and through pyfunc: what is returned, what overrides what, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from transformers import AutoModelForCausalLM, TextGenerationPipeline

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.generation import EngineStats
from mlflow_llm_plugins.quantized_llm.weights import Placement


@pytest.fixture(scope="module")
def full(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact with weights that are not quantized."""
    path = tmp_path_factory.mktemp("full") / "artifact"
    quantized_llm.save_model(checkpoint, path, engine_config={"max_new_tokens": 6, "engine": "generate"})
    return str(path)


@pytest.fixture(scope="module")
def nf4(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact with weights that were saved as NF4."""
    path = tmp_path_factory.mktemp("nf4") / "artifact"
    quantized_llm.save_model(checkpoint, path, quantization="nf4")
    return str(path)


@pytest.fixture(scope="module")
def nf4_half(checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, where the weights that are not quantized are bfloat16."""
    path = tmp_path_factory.mktemp("nf4_half") / "artifact"
    quantized_llm.save_model(checkpoints("bfloat16"), path, quantization="nf4")
    return str(path)


@pytest.fixture(scope="module")
def nf4_reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An artifact that quantizes to NF4 what it refers to."""
    path = tmp_path_factory.mktemp("reference") / "artifact"
    quantized_llm.save_model(checkpoint, path, quantization="nf4", save_pretrained=False)
    return str(path)


@pytest.fixture
def copied(full: str, tmp_path: Path) -> Path:
    """An artifact that may be damaged."""
    return Path(shutil.copytree(full, tmp_path / "copy"))


def layer_of(model: Any) -> str:
    return type(model.model.layers[0].mlp.up_proj).__name__


def refusal(uri: str | Path, **arguments: Any) -> str:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.load_model(str(uri), **arguments)
    return caught.value.message


def test_default_is_a_pipeline_that_generates(full: str) -> None:
    generate = quantized_llm.load_model(full)

    assert isinstance(generate, TextGenerationPipeline)
    assert generate("Hello", max_new_tokens=3, return_full_text=False)[0]["generated_text"]


def test_pipeline_of_a_quantized_model_generates(nf4: str) -> None:
    assert quantized_llm.load_model(nf4)("Hello", max_new_tokens=3)[0]["generated_text"].startswith("Hello")


def test_components_are_model_and_tokenizer(full: str) -> None:
    components = quantized_llm.load_model(full, return_type="components")

    assert set(components) == {"model", "tokenizer"}
    assert not components["model"].training


def test_unknown_return_type_is_answered_with_the_nearest(full: str) -> None:
    assert refusal(full, return_type="pipelin") == (
        "Unknown return_type 'pipelin'. Did you mean 'pipeline'? Allowed: pipeline, model, components."
    )


@pytest.mark.parametrize(
    ("quantization", "layer"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt"), (None, "Linear")]
)
def test_full_weights_are_quantized_while_loading(full: str, quantization: str | None, layer: str) -> None:
    assert layer_of(quantized_llm.load_model(full, return_type="model", quantization=quantization)) == layer


def test_reference_applies_what_is_recorded_unless_told_otherwise(
    nf4_reference: str, checkpoint: Path, token_ids: torch.Tensor
) -> None:
    assert layer_of(quantized_llm.load_model(nf4_reference, return_type="model")) == "Linear4bit"
    assert (
        layer_of(quantized_llm.load_model(nf4_reference, return_type="model", quantization="int8")) == "Linear8bitLt"
    )

    off = quantized_llm.load_model(nf4_reference, return_type="model", quantization="none")
    with torch.no_grad():
        assert torch.equal(off(token_ids).logits, AutoModelForCausalLM.from_pretrained(checkpoint)(token_ids).logits)


def test_switching_off_what_was_saved_quantized_expands_it(
    nf4: str, checkpoint: Path, token_ids: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    expanded = quantized_llm.load_model(nf4, return_type="model", quantization="none")

    assert layer_of(expanded) == "Linear"
    with torch.no_grad():
        logits = expanded(token_ids).logits
        from_nf4 = quantized_llm.load_model(nf4, return_type="model")(token_ids).logits
        original = AutoModelForCausalLM.from_pretrained(checkpoint)(token_ids).logits
    # Its kernels for the CPU round on the way, so not the same bits; but far from the original.
    assert (logits - from_nf4).abs().max() < 0.3 * (original - from_nf4).abs().max()
    assert "Expanding nf4 weights: they take more memory and keep its rounding." in caplog.messages


def test_quantized_weights_are_not_quantized_again(nf4: str) -> None:
    assert refusal(nf4, quantization="int8").startswith(
        "quantization='int8', but the weights are quantized with 'nf4' already."
    )


def test_type_and_attention_reach_transformers(full: str) -> None:
    model = quantized_llm.load_model(full, return_type="model", dtype=torch.bfloat16, attn_implementation="eager")

    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"


def test_device_map_reaches_transformers(full: str) -> None:
    assert quantized_llm.load_model(full, return_type="model", device_map="meta").device.type == "meta"


def test_memory_limits_let_accelerate_choose_the_devices() -> None:
    arguments = Placement(max_memory={0: "1GiB", "cpu": "2GiB"}).for_transformers()

    assert arguments == {"dtype": "auto", "device_map": "auto", "max_memory": {0: "1GiB", "cpu": "2GiB"}}


def test_explicit_argument_overrides_the_logged_configuration(checkpoint: Path, tmp_path: Path) -> None:
    quantized_llm.save_model(checkpoint, tmp_path / "a", engine_config={"dtype": "bfloat16"})

    assert quantized_llm.load_model(str(tmp_path / "a"), return_type="model").dtype == torch.bfloat16
    overridden = quantized_llm.load_model(str(tmp_path / "a"), return_type="model", dtype="float32")
    assert overridden.dtype == torch.float32


def test_native_loading_needs_no_code_of_the_model_and_no_pickle(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr("pickle.loads", _refuse_pickle)
    monkeypatch.setattr("pickle.load", _refuse_pickle)
    monkeypatch.setattr("torch.load", _refuse_pickle)

    assert quantized_llm.load_model(full, return_type="model").num_parameters() > 0


def test_code_that_came_with_the_model_runs_only_when_asked_for(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _edit_section(copied, trust_remote_code=True, base_model="org/name")

    assert refusal(copied) == (
        "org/name runs Python code of its own and was logged with trust_remote_code=True. If you have read that code, "
        "load it with trust_remote_code=True."
    )
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    assert refusal(copied, trust_remote_code=True) == (
        "org/name runs Python code of its own, which MLFLOW_ALLOW_MODEL_CODE_EXECUTION forbids. Set it to true if you "
        "have read that code."
    )


def test_artifact_of_a_newer_format_is_refused(copied: Path) -> None:
    _edit_section(copied, format_version=3)

    assert refusal(copied).startswith("This artifact has format_version 3;")


def test_artifact_of_another_flavor_is_refused(copied: Path) -> None:
    model = Model.load(str(copied))
    del model.flavors["quantized_llm"]
    model.save(str(copied / "MLmodel"))

    assert refusal(copied) == (
        f"{copied} has no 'quantized_llm' flavor, only python_function. Load it with the flavor that logged it."
    )


def test_truncated_weights_of_an_artifact_are_named(copied: Path) -> None:
    file = copied / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    assert refusal(copied).startswith(f"{file} is damaged: ")


def test_missing_target_of_a_reference_is_named(checkpoint: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(checkpoint, tmp_path / "target"))
    quantized_llm.save_model(target, tmp_path / "artifact", save_pretrained=False)
    shutil.rmtree(target)

    assert refusal(tmp_path / "artifact") == (
        f"The artifact refers to weights in {target}, which does not exist on this machine. Put them there, or log "
        "the model again with save_pretrained=True."
    )


def test_importing_the_flavor_loads_no_heavy_library() -> None:
    code = (
        "import sys, mlflow_llm_plugins.quantized_llm; "
        "print([name for name in ('torch', 'transformers', 'bitsandbytes', 'accelerate') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    assert result.stdout.strip() == "[]"


@pytest.fixture
def pyfunc(full: str) -> Iterator[Any]:
    model = mlflow.pyfunc.load_model(full)
    yield model
    model.get_raw_model().close()


def test_pyfunc_answers_as_the_logged_configuration_says(pyfunc: Any) -> None:
    answer = pyfunc.predict({"messages": [{"role": "user", "content": "Hello"}]})

    assert answer["usage"]["completion_tokens"] == 6
    assert pyfunc.get_raw_model().stats().engine == "generate"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_configuration_is_overridden_when_pyfunc_loads(full: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    override = {"max_new_tokens": 2, "quantization": {"method": "nf4", "bnb_4bit_use_double_quant": True}}
    if how == "environment":
        monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", json.dumps(override))
    model = mlflow.pyfunc.load_model(full, model_config=override if how == "argument" else None)
    try:
        answer = model.predict({"prompt": "Hello"})
    finally:
        model.get_raw_model().close()

    assert answer["usage"]["completion_tokens"] == 2


def test_request_times_out_before_the_scoring_server_does(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("__pyfunc_model_path__", full)
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "1")
    model = mlflow.pyfunc.load_model(full, model_config={"max_new_tokens": 250, "engine": __name__ + ":open_slow"})

    assert model.get_raw_model().settings.request_timeout_s == 0.5


def test_pyfunc_error_is_mlflows(copied: Path) -> None:
    _edit_section(copied, format_version=3)

    with pytest.raises(MlflowException, match="format_version 3"):
        mlflow.pyfunc.load_model(str(copied))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device_map": "banana"}, "device_map='banana' is neither a device nor one of 'auto', 'balanced', "),
        ({"device_map": {"": "banana"}}, "device_map='banana' is neither a device nor one of "),
        ({"device_map": "cuda:99"}, "device_map='cuda:99': there is no such device. This machine has "),
        ({"device_map": 99}, "device_map=99: there is no such device. This machine has "),
        ({"attn_implementation": "zzz"}, "with attn_implementation='zzz': "),
        ({"max_memory": {"cpu": "banana"}}, "with max_memory={'cpu': 'banana'}: "),
    ],
)
def test_placement_that_cannot_be_is_named(full: str, arguments: dict[str, Any], message: str) -> None:
    assert message in refusal(full, **arguments)


def test_expanded_weights_have_the_type_that_was_asked_for(nf4_half: str) -> None:
    expanded = quantized_llm.load_model(nf4_half, return_type="model", quantization="none", dtype="float32")

    assert {parameter.dtype for parameter in expanded.parameters()} == {torch.float32}


def test_type_that_quantized_weights_cannot_take_is_warned_of(nf4_half: str, caplog: pytest.LogCaptureFixture) -> None:
    loaded = quantized_llm.load_model(nf4_half, return_type="model", dtype="float32")

    assert loaded.dtype == torch.bfloat16
    said = (
        "dtype='float32' has no effect: the weights were saved quantized with nf4 beside bfloat16, and stay so. Log "
        "the model with that dtype in engine_config, or expand it with quantization='none'."
    )
    assert caplog.messages.count(said) == 1


class _Settings:
    """An engine that only keeps what it was opened with."""

    def __init__(self, tokenizer: Any, settings: Any) -> None:
        self.tokenizer = tokenizer
        self.settings = settings

    def stats(self) -> EngineStats:
        return EngineStats("slow", "running", 0, 0, max_context_length=128, cache_tokens=0)


def open_slow(model: Any, tokenizer: Any, settings: Any) -> _Settings:
    return _Settings(tokenizer, settings)


def _edit_section(artifact: Path, **changes: Any) -> None:
    model = Model.load(str(artifact))
    model.flavors["quantized_llm"].update(changes)
    model.save(str(artifact / "MLmodel"))


def _refuse_pickle(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a pickle was read")

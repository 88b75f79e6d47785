"""Logged models: names, facts to search by, and no second load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins import quantized_llm


def test_logged_model_is_found_by_its_facts(tracking: str, checkpoint: Path) -> None:
    quantized_llm.log_model(checkpoint, name="full")
    info = quantized_llm.log_model(checkpoint, name="small", quantization="nf4", params={"purpose": "test"})

    found = mlflow.search_logged_models(
        filter_string="params.`llm.quantization` = 'nf4' AND params.`llm.bits` = '4'", output_format="list"
    )

    assert [model.model_id for model in found] == [info.model_id]
    assert found[0].name == "small"
    params = found[0].params
    assert params["purpose"] == "test"
    assert params["llm.base_model"] == str(checkpoint)
    assert params["llm.weight_bytes"] == str(info.flavors["quantized_llm"]["weight_bytes"])


def test_logging_into_a_run_leaves_its_params_alone(tracking: str, checkpoint: Path) -> None:
    with mlflow.start_run() as run:
        quantized_llm.log_model(checkpoint, name="a", engine_config={"max_new_tokens": 3})
        quantized_llm.log_model(checkpoint, name="b", model_config={"max_new_tokens": 4})

    assert mlflow.get_run(run.info.run_id).data.params == {}


@pytest.mark.parametrize(
    ("name", "logged"), [("llama-3.2-1b", "llama-3-2-1b"), ("org/name:7%", "org-name-7"), ("'x'", "x")]
)
def test_name_that_mlflow_forbids_is_changed_and_said_so(
    tracking: str, checkpoint: Path, caplog: pytest.LogCaptureFixture, name: str, logged: str
) -> None:
    info = quantized_llm.log_model(checkpoint, name=name, save_pretrained=False)

    assert mlflow.get_logged_model(info.model_id).name == logged
    said = f"The name of a logged model must not contain / : . % \" ': {name!r} is logged as {logged!r}."
    assert caplog.messages.count(said) == 1


def test_registered_model_loads_by_its_alias(tracking: str, checkpoint: Path) -> None:
    quantized_llm.log_model(checkpoint, name="chat", quantization="nf4", registered_model_name="chat")
    mlflow.MlflowClient().set_registered_model_alias("chat", "champion", 1)

    loaded = quantized_llm.load_model("models:/chat@champion", return_type="model")

    assert type(loaded.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"


def test_weights_of_the_artifact_are_files_not_links(tracking: str, checkpoint: Path) -> None:
    info = quantized_llm.log_model(checkpoint, name="chat")

    path = Path(mlflow.artifacts.download_artifacts(info.model_uri)) / "model/model.safetensors"
    assert path.is_file()
    assert not path.is_symlink()
    assert path.read_bytes() == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("registry", ["sqlite", "databricks-uc"])
def test_weights_written_here_reach_the_artifact_store(
    tracking: str, llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: str
) -> None:
    if registry != "sqlite":  # one that uploads what it finds in the folder
        monkeypatch.setattr(mlflow, "get_registry_uri", lambda: registry)

    info = quantized_llm.log_model(llama, name="chat", tokenizer=tokenizer)

    path = Path(mlflow.artifacts.download_artifacts(info.model_uri)) / "model/model.safetensors"
    assert path.stat().st_size == info.flavors["quantized_llm"]["weight_bytes"]
    loaded = quantized_llm.load_model(info.model_uri, return_type="model")
    assert all(map(torch.equal, loaded.parameters(), llama.parameters()))


def test_model_is_not_loaded_again_for_the_input_example(
    tracking: str, llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri, **_: loads.append(uri))

    info = quantized_llm.log_model(llama, name="chat", tokenizer=tokenizer, input_example="Hello")

    assert loads == []
    assert info.saved_input_example_info is not None


def test_old_names_of_arguments_are_taken(tracking: str, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    info = quantized_llm.log_model(
        checkpoint, artifact_path="chat", inference_config={"max_new_tokens": 3}, save_pretrained=False
    )

    assert info.flavors["python_function"]["config"]["max_new_tokens"] == 3
    assert any("`artifact_path` is deprecated" in message for message in caplog.messages)
    assert any("`inference_config` is deprecated" in message for message in caplog.messages)


def test_refusal_carries_mlflows_error_code(tracking: str, checkpoint: Path) -> None:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.log_model(checkpoint, name="chat", quantization="int7")

    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "Did you mean 'int8'?" in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (5, "name must be a string, got 5."),
        ("...", "name='...' has no character that MLflow allows. Use letters and digits."),
    ],
)
def test_name_that_cannot_be_mended_is_refused(checkpoint: Path, name: Any, message: str) -> None:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.log_model(checkpoint, name=name)

    assert caught.value.message == message

"""What an artifact consists of."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_llm_plugins import __version__, quantized_llm
from tests.models import byte_tokenizer, random_model, save_checkpoint


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tmp_path / "artifact"


def section(artifact: Path) -> dict[str, Any]:
    found: dict[str, Any] = Model.load(str(artifact)).flavors["quantized_llm"]
    return found


def refusal(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(MlflowException) as caught:
        quantized_llm.save_model(*arguments, **keywords)
    return caught.value.message


def test_section_says_what_was_saved(checkpoints: Callable[[str], Path], artifact: Path, llama: Any) -> None:
    quantized_llm.save_model(checkpoints("bfloat16"), artifact, quantization="nf4")

    found = section(artifact)
    assert found["format_version"] == 1
    assert found["task"] == "llm/v1/chat"
    assert found["weights"] == {
        "format": "safetensors",
        "location": "artifact",
        "source": "model",
        "commit": None,
    }
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["dtype"] == "bfloat16"
    assert found["parameters"] == llama.num_parameters()
    assert found["weight_bytes"] == (artifact / "model/model.safetensors").stat().st_size
    assert found["base_model"] == str(checkpoints("bfloat16"))
    assert found["trust_remote_code"] is False
    assert re.fullmatch("[0-9a-f]{64}", found["chat_template_sha256"])
    assert found["library_versions"]["mlflow-llm-plugins"] == __version__
    assert {"torch", "transformers", "bitsandbytes"} <= set(found["library_versions"])
    quantization = found["quantization"]
    config = quantization.pop("config")
    assert quantization == {
        "method": "nf4",
        "bits": 4,
        "quant_type": "nf4",
        "compute_dtype": "bfloat16",
        "double_quant": False,
        "applied": "when saved",
    }
    assert config == json.loads((artifact / "model/config.json").read_text())["quantization_config"]


def test_type_for_the_engine_is_the_type_that_is_saved(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, quantization="nf4", engine_config={"dtype": "bfloat16"})

    found = section(artifact)
    assert found["dtype"] == found["quantization"]["compute_dtype"] == "bfloat16"
    assert quantized_llm.load_model(str(artifact), return_type="model").dtype == torch.bfloat16


def test_pyfunc_part_lets_mlflow_find_and_configure_the_flavor(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, engine_config={"max_new_tokens": 9})

    model = Model.load(str(artifact))
    pyfunc = model.flavors["python_function"]
    assert pyfunc["loader_module"] == "mlflow_llm_plugins.quantized_llm"
    assert pyfunc["streamable"] is True
    assert pyfunc["config"]["max_new_tokens"] == 9
    assert pyfunc["config"]["quantization"] is None
    assert model.metadata == {"task": "llm/v1/chat"}
    assert model.signature.inputs is None
    assert model.model_size_bytes >= (checkpoint / "model.safetensors").stat().st_size


def test_only_what_loading_needs_is_copied(checkpoint: Path, tmp_path: Path, artifact: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    for name in ("pytorch_model.bin", "model.gguf", "modeling_custom.py", "optimizer.pt", "consolidated.safetensors"):
        (copied / name).write_bytes(b"x")
    for name in ("original", "onnx"):
        shutil.copytree(checkpoint, copied / name)
    (copied / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Card")
    (copied / "LICENSE").write_text("Apache License")

    quantized_llm.save_model(copied, artifact)

    assert sorted(file.name for file in (artifact / "model").iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert section(artifact)["license"] == "apache-2.0"


def test_reference_leaves_the_weights_where_they_are(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, quantization="int8", save_pretrained=False)

    assert not list(artifact.rglob("*.safetensors"))
    found = section(artifact)
    assert found["weights"] == {
        "format": "safetensors",
        "location": "path",
        "source": str(checkpoint),
        "commit": None,
    }
    assert found["weight_bytes"] == (checkpoint / "model.safetensors").stat().st_size
    assert found["quantization"]["applied"] == "when loaded"


def test_requirements_are_pinned_and_complete(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, quantization="nf4")

    requirements = (artifact / "requirements.txt").read_text().splitlines()
    assert requirements[:2] == [f"mlflow=={mlflow.__version__}", f"mlflow-llm-plugins[torch]=={__version__}"]
    pins = [line for line in requirements if not line.startswith("--find-links wheels/")]
    assert all(re.fullmatch(r"[\w\-\[\]]+==[\w.]+", line) for line in pins), "a pin, without a local label"
    names = {line.partition("==")[0] for line in pins}
    assert {"torch", "transformers", "accelerate", "tokenizers", "safetensors", "bitsandbytes"} <= names
    assert "torchvision" not in names
    conda = yaml.safe_load((artifact / "conda.yaml").read_text())
    assert conda["dependencies"][-1]["pip"] == requirements
    python = yaml.safe_load((artifact / "python_env.yaml").read_text())
    assert python["python"] == ".".join(map(str, sys.version_info[:3]))
    assert python["dependencies"] == ["-r requirements.txt"]


def test_requirements_can_be_extended_or_replaced(checkpoint: Path, tmp_path: Path) -> None:
    quantized_llm.save_model(checkpoint, tmp_path / "a", extra_pip_requirements=["rich==14.0.0"])
    quantized_llm.save_model(checkpoint, tmp_path / "b", pip_requirements=["rich==14.0.0"])
    quantized_llm.save_model(checkpoint, tmp_path / "c", conda_env={"dependencies": [{"pip": ["rich==14.0.0"]}]})

    extended, replaced, conda = ((tmp_path / name / "requirements.txt").read_text().splitlines() for name in "abc")
    assert "rich==14.0.0" in extended
    assert any(line.startswith("torch==") for line in extended)
    assert replaced == conda == [f"mlflow=={mlflow.__version__}", "rich==14.0.0"]


def test_two_ways_to_give_requirements_are_refused(checkpoint: Path, artifact: Path) -> None:
    with pytest.raises(ValueError, match="Only one of `conda_env`, `pip_requirements`"):
        quantized_llm.save_model(checkpoint, artifact, pip_requirements=["a"], extra_pip_requirements=["b"])


def test_code_paths_are_stored_and_imported_at_load(
    checkpoint: Path, tmp_path: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "companion_of_the_model.py").write_text("ANSWER = 42")
    monkeypatch.setattr(sys, "path", list(sys.path))

    quantized_llm.save_model(checkpoint, artifact, code_paths=[str(tmp_path / "companion_of_the_model.py")])
    quantized_llm.load_model(str(artifact), return_type="model")

    import companion_of_the_model

    assert companion_of_the_model.ANSWER == 42
    assert Model.load(str(artifact)).flavors["python_function"]["code"] == "code"


def test_templates_and_request_defaults_are_stored(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(
        checkpoint,
        artifact,
        chat_template="{% for message in messages %}{{ message.content }}{% endfor %}",
        prompt_template="Q: {prompt} A:",
        generation_config={"temperature": 0.5, "max_new_tokens": 5},
    )

    loaded = quantized_llm.load_model(str(artifact), return_type="components")
    chat = [{"role": "user", "content": "Hi"}]
    assert loaded["tokenizer"].apply_chat_template(chat, tokenize=False) == "Hi"
    assert loaded["model"].generation_config.temperature == 0.5
    assert loaded["model"].generation_config.max_new_tokens == 5
    assert section(artifact)["prompt_template"] == "Q: {prompt} A:"
    assert section(artifact)["generation_config"] == {"do_sample": True, "temperature": 0.5, "max_new_tokens": 5}


def test_tokenizer_without_a_chat_template_makes_a_completions_model(
    llama: Any, tokenizer: Any, artifact: Path, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer/chat_template.jinja").unlink()

    quantized_llm.save_model(llama, artifact, tokenizer=tmp_path / "tokenizer")

    assert section(artifact)["task"] == "llm/v1/completions"
    assert section(artifact)["chat_template_sha256"] is None


def test_input_example_and_metadata_are_stored(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, input_example="Hello", metadata={"team": "search"})

    model = Model.load(str(artifact))
    assert model.load_input_example(str(artifact)) is not None
    assert model.metadata == {"team": "search", "task": "llm/v1/chat"}


def test_failed_save_leaves_an_empty_target(checkpoint: Path, tmp_path: Path, artifact: Path) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copied / "model.safetensors").write_bytes(b"")

    refusal(copied, artifact)
    quantized_llm.save_model(checkpoint, artifact)

    assert (artifact / "MLmodel").is_file()


def test_target_that_is_not_empty_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "already exists and is not empty" in refusal(checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "nf5"}, "Unknown quantization 'nf5'. Did you mean 'nf4'?"),
        ({"task": "chat"}, "Unknown task 'chat'."),
        ({"prompt_template": "x"}, "prompt_template must contain '{prompt}' exactly once, got 'x'."),
        ({"bundle_plugin": "yes"}, "bundle_plugin must be 'auto', True or False, got 'yes'."),
        ({"engine_config": {"threads": 1}}, "engine_config: unknown key 'threads'."),
        ({"signature": 3}, "signature must be None, 'chat', 'completions' or a ModelSignature"),
        (
            {"quantization": "nf4", "engine_config": {"quantization": "int8"}},
            "quantization='nf4', and engine_config has quantization='int8' for when the model is loaded.",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    checkpoint: Path, artifact: Path, arguments: dict[str, Any], message: str
) -> None:
    assert message in refusal(checkpoint, artifact, **arguments)
    assert not artifact.exists()


def test_missing_engine_packages_are_answered_with_the_pip_command(
    checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    assert refusal(checkpoint, artifact) == (
        "Logging a quantized_llm model needs transformers: pip install 'mlflow-llm-plugins[torch]'"
    )


def test_quantizing_a_quantized_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, quantization="nf4")

    assert "quantization='int8', but the weights are quantized with 'nf4' already." in refusal(
        artifact / "model", tmp_path / "again", quantization="int8"
    )


def test_method_for_loading_is_recorded_without_quantizing(checkpoint: Path, artifact: Path) -> None:
    quantized_llm.save_model(checkpoint, artifact, engine_config={"quantization": "nf4"})

    assert (artifact / "model/model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert section(artifact)["quantization"]["applied"] == "when loaded"
    loaded = quantized_llm.load_model(str(artifact), return_type="model")
    assert type(loaded.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"


@pytest.mark.parametrize("license_", ["5", "true", "{a: 1}", "[5]"])
def test_licence_that_is_no_text_does_not_stop_saving(
    checkpoint: Path, tmp_path: Path, artifact: Path, license_: str
) -> None:
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copied / "README.md").write_text(f"---\nlicense: {license_}\n---\n# Card")

    quantized_llm.save_model(copied, artifact)

    assert section(artifact)["license"] is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages + 1 }}", "chat_template cannot render a chat of one user message: TypeError: "),
        ({"default": "x"}, "chat_template must be a Jinja template as a string, got {'default': 'x'}."),
    ],
)
def test_chat_template_that_cannot_be_used_is_refused(
    checkpoint: Path, artifact: Path, template: Any, message: str
) -> None:
    assert refusal(checkpoint, artifact, chat_template=template).startswith(message)


OPENVINO_PINS = {"openvino", "openvino-genai", "openvino-tokenizers", "nncf"}


def requirement_names(artifact: Path) -> set[str]:
    lines = (artifact / "requirements.txt").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if not line.startswith("--find-links")}


@pytest.mark.parametrize(
    "arguments",
    [
        {"engine_config": {"engine": "openvino"}},
        {"engine_config": {"engine": "openvino", "quantization": "auto"}},
        {"engine_config": {"quantization": "openvino-int8"}},
        {"quantization": "openvino-int8", "save_pretrained": False},
    ],
    ids=["engine", "engine and auto", "method at load", "reference"],
)
def test_what_is_exported_when_it_is_loaded_names_what_exports_it(
    checkpoint: Path, artifact: Path, arguments: dict[str, Any]
) -> None:
    quantized_llm.save_model(checkpoint, artifact, **arguments)

    names = requirement_names(artifact)
    assert "mlflow-llm-plugins[openvino-export]" in names
    assert names >= OPENVINO_PINS | {"torch", "transformers", "accelerate", "safetensors", "tokenizers", "jinja2"}
    assert set(section(artifact)["library_versions"]) >= OPENVINO_PINS | {"torch"}


@pytest.mark.parametrize("engine_config", [{"engine": "auto"}, {"quantization": "auto"}, {"engine": "transformers"}])
def test_what_runs_without_openvino_does_not_name_it(
    checkpoint: Path, artifact: Path, engine_config: dict[str, Any]
) -> None:
    quantized_llm.save_model(checkpoint, artifact, engine_config=engine_config)

    assert "mlflow-llm-plugins[torch]" in requirement_names(artifact)
    assert not requirement_names(artifact) & OPENVINO_PINS


@pytest.mark.parametrize(
    "arguments",
    [
        {"engine_config": {"engine": "openvino"}},
        {"engine_config": {"engine": "openvino"}, "quantization": "auto"},
        {"engine_config": {"quantization": "openvino-int8"}},
        {"quantization": "openvino-int8", "save_pretrained": False},
    ],
    ids=["engine", "engine and auto", "method at load", "reference"],
)
def test_what_can_never_be_exported_is_refused_when_it_is_logged(
    tmp_path: Path, artifact: Path, arguments: dict[str, Any]
) -> None:
    checkpoint = save_checkpoint(tmp_path / "bloom", random_model("bloom"), byte_tokenizer())

    assert "BloomForCausalLM cannot be exported to OpenVINO: " in refusal(checkpoint, artifact, **arguments)
    assert not artifact.exists()


def test_attention_with_a_softcap_is_refused_when_it_is_logged(tmp_path: Path, artifact: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "gemma2", random_model("gemma2"), byte_tokenizer())

    assert refusal(checkpoint, artifact, engine_config={"engine": "openvino"}) == (
        "Gemma2ForCausalLM cannot be exported to OpenVINO: its attention has a softcap, for which OpenVINO's has no "
        "place."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"quantization": "nf4", "engine_config": {"engine": "openvino"}},
            "quantization='nf4' is of torch, and engine='openvino' runs OpenVINO models. Leave engine out, or choose "
            "one of OpenVINO's methods.",
        ),
        (
            {"engine_config": {"engine": "transformers", "quantization": "openvino-int8"}},
            "engine='transformers' does not run OpenVINO models, which only the engine 'openvino' does. Leave engine "
            "out, or choose another quantization.",
        ),
    ],
)
def test_an_engine_that_does_not_run_the_method_is_refused_when_it_is_logged(
    checkpoint: Path, artifact: Path, arguments: dict[str, Any], message: str
) -> None:
    assert refusal(checkpoint, artifact, **arguments) == message
    assert not artifact.exists()

"""Artifacts that hold an OpenVINO model: what they consist of, what loads them, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import openvino
import openvino_genai
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.quantized_llm.export_cache import FOLDER_VARIABLE
from tests.models import byte_tokenizer, random_model, save_checkpoint

EXACT = {"inference_precision": "f32", "kv_cache_precision": "f32"}
PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def saved(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: quantization -> an artifact of the checkpoint, made once."""
    made: dict[str, Path] = {}

    def save(quantization: Any, **options: Any) -> Path:
        key = json.dumps([quantization, options], sort_keys=True)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("saved") / "artifact"
            quantized_llm.save_model(checkpoint, made[key], quantization=quantization, **options)
        return made[key]

    return save


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """A function: artifact, model_config -> its pyfunc model, whose engine is closed at the end."""
    engines = []

    def load(artifact: Path, **config: Any) -> Any:
        model = mlflow.pyfunc.load_model(str(artifact), model_config=config)
        engines.append(model.get_raw_model())
        return model

    yield load
    for engine in engines:
        engine.close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache/openvino"


def section(artifact: Path) -> dict[str, Any]:
    found: dict[str, Any] = Model.load(str(artifact)).flavors["quantized_llm"]
    return found


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(MlflowException) as caught:
        call()
    return caught.value.message


def test_the_artifact_holds_what_serving_needs_and_no_torch_weights(saved):
    artifact = saved("openvino-int8")
    files = {file.name for file in (artifact / "model").iterdir()}
    assert {
        *("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "openvino_detokenizer.xml"),
        *("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"),
    } <= files
    assert not [name for name in files if name.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("quantization", "method", "bits", "settings"),
    [
        ("openvino-fp16", "openvino-fp16", 16, {}),
        ("openvino-int8", "openvino-int8", 8, {"symmetric": False}),
        ({"method": "openvino-int8", "symmetric": True}, "openvino-int8", 8, {"symmetric": True}),
        (
            {"method": "openvino-int4", "group_size": 64, "ratio": 0.5},
            "openvino-int4",
            4,
            {"group_size": 64, "ratio": 0.5, "symmetric": True},
        ),
    ],
)
def test_the_section_says_how_it_was_made_and_what_its_proof_showed(saved, quantization, method, bits, settings):
    found = section(saved(quantization))
    assert found["format_version"] == 2
    assert found["weights"] == {"format": "openvino", "location": "artifact", "source": "model", "commit": None}
    recorded = found["quantization"]
    assert (recorded["method"], recorded["bits"], recorded["applied"]) == (method, bits, "when saved")
    assert settings.items() <= recorded["config"].items()
    assert found["export"]["traced_dtype"] == ("float16" if bits == 16 else "float32")
    probe = found["export"]["probe"]
    assert (type(probe["is_exact"]), type(probe["tokens"]), type(probe["max_difference"])) == (bool, int, float)


def test_the_facts_are_params_of_the_logged_model(tracking, checkpoint, llama):
    info = quantized_llm.log_model(checkpoint, name="chat", quantization="openvino-int8")
    params = mlflow.get_logged_model(info.model_id).params
    assert params["llm.quantization"] == "openvino-int8"
    assert params["llm.bits"] == "8"
    assert params["llm.weights_format"] == "openvino"
    assert params["llm.parameters"] == str(llama.num_parameters())
    assert any(name.startswith("llm.export.") for name in params)
    path = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    assert int(params["llm.weight_bytes"]) == (path / "model/openvino_model.bin").stat().st_size


def test_requirements_name_what_serving_needs_alone(saved):
    requirements = (saved("openvino-int8", bundle_plugin=False) / "requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in requirements}
    assert names == {
        *("mlflow", "mlflow-llm-plugins[openvino]"),
        *("openvino", "openvino-genai", "openvino-tokenizers", "tokenizers", "jinja2"),
    }


def test_texts_that_calibrated_are_counted_not_kept(saved, held_out):
    secret = [f"{text} the secret word" for text in held_out[:3]]
    artifact = saved({"method": "openvino-int4", "awq": True, "group_size": 64, "calibration": secret})
    assert section(artifact)["quantization"]["config"]["calibration"] == "3 texts"
    assert "the secret word" not in (artifact / "MLmodel").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("return_type", "kind"), [("pipeline", openvino_genai.LLMPipeline), ("model", openvino.Model)]
)
def test_native_loading_gives_openvinos_objects(saved, return_type, kind):
    assert isinstance(quantized_llm.load_model(str(saved("openvino-int8")), return_type=return_type), kind)


def test_components_are_pipeline_and_tokenizer(saved):
    found = quantized_llm.load_model(str(saved("openvino-int8")), return_type="components")
    assert isinstance(found["pipeline"], openvino_genai.LLMPipeline)
    assert isinstance(found["tokenizer"], openvino_genai.Tokenizer)
    ids = np.array(found["tokenizer"].encode(PROMPT).input_ids.data)[0].tolist()
    assert ids == byte_tokenizer()(PROMPT).input_ids


@torch.no_grad()
def test_a_pyfunc_model_answers_as_torch_does(saved, opened, checkpoint, tokenizer):
    from transformers import AutoModelForCausalLM

    model = opened(saved("openvino-fp16"), **EXACT)
    torch_model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for parameter in torch_model.parameters():
        parameter.copy_(parameter.half().float())
    ids = torch.tensor([tokenizer(PROMPT).input_ids])
    expected = torch_model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    answer = model.predict({"prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True})
    assert model.get_raw_model().stats().engine == "openvino"
    assert answer["choices"][0]["text"] == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)


def test_chats_rows_and_chunks_are_answered(saved, opened):
    model = opened(saved("openvino-int8"))
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "ignore_eos": True}
    assert model.predict(chat)["usage"]["completion_tokens"] == 5
    assert len(model.predict(["Hello", "there"], params={"max_tokens": 3})) == 2
    chunks = list(model.predict_stream(chat))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "nncf", "accelerate"):
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Blocker())
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "ignore_eos": True}))
print(model.get_raw_model().score(["Hello there"])[0])
model.get_raw_model().close()
"""


@pytest.mark.slow
def test_it_is_loaded_and_answers_where_there_is_no_torch(saved):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(saved("openvino-int8"))],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "'completion_tokens': 4" in done.stdout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"engine": "transformers"},
            "The artifact holds an OpenVINO model, which runs on the engine 'openvino' alone. Leave engine out, or "
            "log the original model.",
        ),
        (
            {"quantization": "nf4"},
            "quantization='nf4', but the artifact holds an OpenVINO model with quantization 'openvino-int8', which "
            "stays as it is. Leave quantization out, or log the original model with that quantization.",
        ),
        (
            {"quantization": "none"},
            "quantization='none', but the artifact holds an OpenVINO model with quantization 'openvino-int8', which "
            "stays as it is. Leave quantization out, or log the original model with that quantization.",
        ),
    ],
)
def test_what_it_cannot_become_is_refused(saved, config, message):
    artifact = str(saved("openvino-int8"))
    assert refusal(lambda: mlflow.pyfunc.load_model(artifact, model_config=config)) == message
    assert refusal(lambda: quantized_llm.load_model(artifact, **config)) == message


@pytest.mark.parametrize("config", [{"quantization": "openvino-int8"}, {"quantization": "auto"}, {"engine": "auto"}])
def test_what_it_is_already_may_be_said_again(saved, opened, config):
    assert opened(saved("openvino-int8"), **config).get_raw_model().stats().engine == "openvino"


def test_a_model_file_that_is_missing_is_named(saved, tmp_path):
    copy = shutil.copytree(saved("openvino-int8"), tmp_path / "copy")
    (copy / "model/openvino_model.bin").unlink()
    assert refusal(lambda: mlflow.pyfunc.load_model(str(copy))) == (
        f"{copy / 'model'} is damaged: it has no openvino_model.bin. Copy or download it again."
    )


@pytest.mark.parametrize("package", ["openvino", "openvino_genai", "openvino_tokenizers", "tokenizers", "jinja2"])
def test_a_package_that_serving_lacks_is_named_with_the_pip_command(saved, monkeypatch, package):
    artifact = saved("openvino-int8")
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(lambda: mlflow.pyfunc.load_model(str(artifact))) == (
        f"The engine 'openvino' needs {package}: pip install 'mlflow-llm-plugins[openvino]'"
    )


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            {"method": "openvino-int8", "group_size": 64},
            "group_size=64 does not belong to weight_format='int8': only symmetric.",
        ),
        ({"method": "openvino-int4", "group_sise": 64}, "unknown key 'group_sise'. Did you mean 'group_size'?"),
        ({"method": "openvino-int4", "awq": True}, "awq and scale_estimation need calibration"),
        ({"method": "openvino-int4", "ratio": 1.5}, "ratio=1.5: Input should be less than or equal to 1"),
    ],
)
def test_settings_that_a_method_lacks_are_refused_by_name(checkpoint, tmp_path, quantization, message):
    assert message in refusal(
        lambda: quantized_llm.save_model(checkpoint, tmp_path / "artifact", quantization=quantization)
    )
    assert not (tmp_path / "artifact").exists()


def test_an_architecture_that_cannot_be_expressed_is_refused_before_anything_is_written(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "bloom", random_model("bloom"), byte_tokenizer())
    message = refusal(lambda: quantized_llm.save_model(checkpoint, tmp_path / "a", quantization="openvino-int8"))
    assert "bloom" in message.lower()
    assert not (tmp_path / "a").exists()


def test_a_model_in_memory_is_exported_and_not_changed(llama, tokenizer, tmp_path, opened):
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    implementation = llama.config._attn_implementation
    quantized_llm.save_model(
        {"model": llama, "tokenizer": tokenizer}, tmp_path / "artifact", quantization="openvino-int8"
    )
    assert llama.config._attn_implementation == implementation
    assert all(torch.equal(value, before[name]) for name, value in llama.state_dict().items())
    assert opened(tmp_path / "artifact").predict(["Hello"], params={"max_tokens": 2})


def test_ordinary_weights_run_on_the_engine_that_is_asked_for(checkpoint, tmp_path, opened, cache):
    quantized_llm.save_model(checkpoint, tmp_path / "artifact")
    torch_model = opened(tmp_path / "artifact")
    exported = opened(tmp_path / "artifact", engine="openvino", **EXACT)
    request = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    assert exported.get_raw_model().stats().engine == "openvino"
    assert exported.predict(request)["choices"] == torch_model.predict(request)["choices"]
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_one_of_openvinos_methods_at_load_means_its_engine(checkpoint, tmp_path, opened, cache):
    quantized_llm.save_model(checkpoint, tmp_path / "artifact")
    engine = opened(tmp_path / "artifact", quantization="openvino-int8").get_raw_model()
    assert engine.stats().engine == "openvino"
    assert engine.stats().weight_bytes < 0.5 * (checkpoint / "model.safetensors").stat().st_size


def test_a_reference_may_be_exported_at_each_load(checkpoint, tmp_path, opened, cache):
    quantized_llm.save_model(checkpoint, tmp_path / "artifact", quantization="openvino-int8", save_pretrained=False)
    assert section(tmp_path / "artifact")["quantization"]["applied"] == "when loaded"
    assert opened(tmp_path / "artifact").get_raw_model().stats().engine == "openvino"


def test_an_engine_that_is_left_to_auto_is_told_with_the_reason(checkpoint, tmp_path, opened, cache, caplog):
    quantized_llm.save_model(checkpoint, tmp_path / "artifact", engine_config={"engine": "auto"})
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path / "artifact").get_raw_model().stats().engine == "openvino"
    assert any(message.startswith("engine='auto': 'openvino', since ") for message in caplog.messages)


@pytest.mark.parametrize(
    ("saved_as", "config", "message"),
    [
        (
            "nf4",
            {"engine": "openvino"},
            "The engine 'openvino' exports weights that are not quantized, and these were saved with 'nf4'. Leave "
            "engine out, or log the original model with quantization='openvino-int8'.",
        ),
        (
            None,
            {"engine": "openvino", "quantization": "nf4"},
            "quantization='nf4' is of torch, and the engine 'openvino' runs 'none', 'openvino-fp16', 'openvino-int8' "
            "or 'openvino-int4'. Choose one of these, or leave engine out.",
        ),
        (
            None,
            {"engine": "transformers", "quantization": "openvino-int8"},
            "quantization='openvino-int8' makes an OpenVINO model, which the engine 'transformers' does not run. "
            "Leave engine out, or set it to 'openvino'.",
        ),
    ],
)
def test_engines_and_weights_that_do_not_fit_are_refused(saved, cache, saved_as, config, message):
    artifact = saved(saved_as)
    assert refusal(lambda: mlflow.pyfunc.load_model(str(artifact), model_config=config)) == message


def test_settings_of_torch_are_told_to_have_no_effect(saved, opened, caplog):
    with caplog.at_level(logging.WARNING):
        opened(saved("openvino-int8"), device_map="cpu", attn_implementation="eager")
    assert "device_map, attn_implementation: no effect on an OpenVINO model." in caplog.messages


@pytest.fixture(scope="module")
def foreign(saved, tmp_path_factory) -> Path:
    """A directory as another exporter writes it: the model, its configuration and a tokenizer."""
    folder = tmp_path_factory.mktemp("foreign") / "model"
    shutil.copytree(saved("openvino-int8") / "model", folder)
    return folder


def test_a_directory_with_an_openvino_model_is_logged_as_it_is(foreign, tmp_path, opened):
    quantized_llm.save_model(foreign, tmp_path / "artifact")
    for name in ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"):
        assert (tmp_path / "artifact/model" / name).read_bytes() == (foreign / name).read_bytes()
    found = section(tmp_path / "artifact")
    assert found["weights"]["format"] == "openvino"
    assert found["quantization"]["method"] == "openvino-int8"
    assert found["export"] is None
    assert opened(tmp_path / "artifact").predict(["Hello"], params={"max_tokens": 2})


TEMPLATE = "{% for message in messages %}<<{{ message['content'] }}>>{% endfor %}"


@pytest.mark.parametrize("origin", ["checkpoint", "foreign"])
def test_a_chat_template_that_is_given_is_also_that_of_openvinos_own_tokenizer(request, origin, tmp_path):
    quantization = "openvino-int8" if origin == "checkpoint" else None
    source = request.getfixturevalue(origin)
    quantized_llm.save_model(source, tmp_path / "artifact", quantization=quantization, chat_template=TEMPLATE)
    tokenizer = quantized_llm.load_model(str(tmp_path / "artifact"), return_type="components")["tokenizer"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], True) == "<<Hello>>"


def test_a_tokenizer_model_that_it_lacks_is_made(foreign, tmp_path, opened):
    bare = shutil.copytree(foreign, tmp_path / "bare")
    for file in [*bare.glob("openvino_tokenizer.*"), *bare.glob("openvino_detokenizer.*")]:
        file.unlink()
    quantized_llm.save_model(bare, tmp_path / "artifact")
    body = {"prompt": "a", "max_tokens": 9, "regex": "[a-z]{3}"}
    answer = opened(tmp_path / "artifact").predict(body)["choices"][0]
    assert answer["text"].isalpha()
    assert len(answer["text"]) == 3


def test_a_reference_to_such_a_directory_is_loaded_from_there(foreign, tmp_path, opened):
    quantized_llm.save_model(foreign, tmp_path / "artifact", save_pretrained=False)
    assert not list((tmp_path / "artifact").rglob("openvino_model.bin"))
    assert opened(tmp_path / "artifact").predict(["Hello"], params={"max_tokens": 2})


def test_such_a_directory_cannot_be_quantized_once_more(foreign, tmp_path):
    assert refusal(lambda: quantized_llm.save_model(foreign, tmp_path / "artifact", quantization="openvino-int4")) == (
        "quantization='openvino-int4', but the directory holds an OpenVINO model (int8), which is logged as it is. "
        "Leave quantization out, or log the original checkpoint with that quantization."
    )


def test_other_settings_than_the_artifact_has_are_refused_with_both(saved):
    artifact, config = saved("openvino-int8"), {"quantization": {"method": "openvino-int8", "symmetric": True}}
    message = (
        "quantization='openvino-int8' with symmetric=True, but the artifact holds an OpenVINO model with "
        "symmetric=False, which stays as it is. Leave quantization out, or log the original model with that "
        "quantization."
    )
    assert refusal(lambda: mlflow.pyfunc.load_model(str(artifact), model_config=config)) == message
    assert refusal(lambda: quantized_llm.load_model(str(artifact), **config)) == message


def test_other_settings_than_the_directory_has_are_refused_with_both(foreign, tmp_path):
    wanted = {"method": "openvino-int8", "symmetric": True}
    assert refusal(lambda: quantized_llm.save_model(foreign, tmp_path / "artifact", quantization=wanted)) == (
        "quantization='openvino-int8' with symmetric=True, but the directory holds an OpenVINO model with "
        "symmetric=False, which is logged as it is. Leave quantization out, or log the original checkpoint with that "
        "quantization."
    )


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "openvino-int8"},
        {"quantization": {"method": "openvino-int8", "symmetric": False}},
        {"quantization": "auto"},
        {"engine_config": {"quantization": "auto"}},
    ],
)
def test_settings_that_the_directory_has_may_be_said(foreign, tmp_path, options):
    quantized_llm.save_model(foreign, tmp_path / "artifact", **options)
    assert section(tmp_path / "artifact")["quantization"]["method"] == "openvino-int8"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_are_exported_as_they_are(checkpoints, tmp_path, opened, dtype):
    quantized_llm.save_model(checkpoints(dtype), tmp_path / "artifact", quantization="openvino-int8")
    assert section(tmp_path / "artifact")["export"]["traced_dtype"] in (dtype, "float32")
    assert opened(tmp_path / "artifact").predict(["Hello"], params={"max_tokens": 2})

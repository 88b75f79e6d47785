"""Stock MLflow commands on a logged model: real processes, a real store, every payload over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import free_port, serve_command, served

pytestmark = pytest.mark.slow

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}]}


@pytest.fixture
def champion(tiny_llama, tracking):
    """The URI of a registered NF4 model under the alias champion."""
    info = quantized_llm.log_model(
        str(tiny_llama),
        name="chat",
        quantization="nf4",
        registered_model_name="chat",
        engine_config={"max_new_tokens": 8},
        bundle_plugin=True,
    )
    mlflow.MlflowClient().set_registered_model_alias("chat", "champion", info.registered_model_version)
    return "models:/chat@champion"


@pytest.fixture
def expected(champion):
    """What the model answers in process: the truth for both commands."""
    model = mlflow.pyfunc.load_model(champion)
    yield model
    model.get_raw_model().close()


def test_models_predict_answers_what_pyfunc_answers(champion, expected, tmp_path):
    request = {"inputs": ["What is a loop?", "What is a class?"], "params": {"max_tokens": 5}}
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    command = ["models", "predict", "-m", champion, "--env-manager", "local", "-t", "json", "-i", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer == {"predictions": expected.predict(request["inputs"], params=request["params"])}


def test_models_serve_answers_every_payload_and_many_at_once(champion, expected, tmp_path):
    port = free_port()
    with served(serve_command(champion, port), port, tmp_path / "serve.log") as client:

        def post(payload, status=200):
            response = client.post("/invocations", json=payload)
            assert response.status_code == status, response.text
            return response.json()

        chat = ChatCompletion.model_validate(post({**CHAT, "model": "any", "temperature": 0}))
        assert chat.choices[0].message.content == expected.predict(CHAT)["choices"][0]["message"]["content"]
        assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens

        completion = Completion.model_validate(post({"prompt": "A loop", "max_tokens": 4, "n": 2, "temperature": 1.0}))
        assert len(completion.choices) == 2

        rows = ["What is a loop?", "What is a class?"]
        answers = expected.predict(rows)
        for payload in (
            {"inputs": rows},
            {"instances": rows},
            {"dataframe_split": {"columns": ["prompt"], "data": [[row] for row in rows]}},
            {"dataframe_records": [{"prompt": row} for row in rows]},
        ):
            assert post(payload) == {"predictions": answers}
        assert post({"inputs": rows, "params": {"max_tokens": 2}}) != {"predictions": answers}

        with ThreadPoolExecutor(12) as pool:
            bodies = list(pool.map(lambda _: post({**CHAT, "temperature": 0}), range(24)))
        assert {body["choices"][0]["message"]["content"] for body in bodies} == {chat.choices[0].message.content}

        for payload, words in [
            ({**CHAT, "max_tokens": 100_000}, "Ask for at most"),
            ({**CHAT, "top_logprobs": 5}, "top_logprobs"),
            ({**CHAT, "temperature": -1}, "temperature must be from 0 (greedy) to 100, got -1"),
            ({"messages": []}, "messages"),
            ({"inputs": []}, "give at least one prompt"),
        ]:
            assert words in post(payload, status=400)["message"]
        assert post(CHAT)["object"] == "chat.completion"


def test_generate_dockerfile_finds_what_it_needs(champion, tmp_path):
    command = ["models", "generate-dockerfile", "-m", champion, "-d", str(tmp_path / "docker")]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FROM python:3." in (tmp_path / "docker" / "Dockerfile").read_text()  # not the fallback that builds Python
    model = tmp_path / "docker" / "model_dir"
    *requirements, wheels = (model / "requirements.txt").read_text().splitlines()
    assert list((model / wheels.removeprefix("--find-links ")).glob("mlflow_llm_plugins-*.whl"))
    named = {line.partition("==")[0] for line in requirements}
    assert {"mlflow", "mlflow-llm-plugins[torch]", "torch", "transformers", "accelerate", "bitsandbytes"} <= named
    assert all("==" in line and "+" not in line for line in requirements)
    assert not any("torchvision" in line for line in requirements)


def test_the_engine_stops_with_the_server_and_frees_its_port(champion, tmp_path):
    port = free_port()
    for _ in range(2):
        with served(serve_command(champion, port), port, tmp_path / "serve.log") as client:
            assert client.post("/invocations", json=CHAT).status_code == 200

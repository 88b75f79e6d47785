"""A container of our flavor, without Docker: the image that `generate-dockerfile` describes, and what it starts."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import mlflow.models
import pytest
from mlflow.models import container
from openai.types.chat import ChatCompletion

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import free_port, served, uvicorn_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="containers run Linux")]

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 4, "temperature": 0}
ELSEWHERE = "C.MODEL_PATH, C.DEFAULT_INFERENCE_SERVER_PORT = {model!r}, {port}; "  # than in the image
NGINX_CONF = Path(mlflow.models.__file__).parent / "container/scoring_server/nginx.conf"


@dataclass(frozen=True, slots=True)
class Image:
    """What `docker build` would be given."""

    folder: Path

    def instruction(self, name: str) -> str:
        """What the Dockerfile's last instruction of that name says."""
        return re.findall(rf"^{name} (.+)$", (self.folder / "Dockerfile").read_text(), re.M)[-1]

    @property
    def model(self) -> Path:
        """The artifact that is copied to where a container looks for it."""
        source, destination = self.instruction("COPY").split()
        assert destination == container.MODEL_PATH
        return self.folder / source

    def command(self, port: int) -> list[str]:
        """What a container runs, on this machine; MLflow's port is the same in every container."""
        python, option, code = json.loads(self.instruction("ENTRYPOINT"))
        assert (python, option) == ("python", "-c")
        imported, separator, rest = code.partition("C._serve(")
        elsewhere = ELSEWHERE.format(model=str(self.model), port=port)
        return [sys.executable, "-c", imported + elsewhere + separator + rest, "-p", str(port)]


@pytest.fixture(scope="module")
def image(tiny_llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("container")
    quantized_llm.save_model(str(tiny_llama), str(folder / "model"))
    command = ["models", "generate-dockerfile", "-m", str(folder / "model"), "-d", str(folder / "image")]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return Image(folder / "image")


@pytest.fixture
def command(image, monkeypatch):
    """A container's command, with the environment that the image gives it, but for nginx, which is not here."""
    name, _, value = image.instruction("ENV").partition("=")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("DISABLE_NGINX", "true")
    monkeypatch.delenv("MLFLOW_MODELS_WORKERS", raising=False)
    return image.command(free_port())


def test_the_image_has_this_python_and_installs_all_that_the_model_needs(image):
    assert image.instruction("FROM") == f"python:{platform.python_version()}-slim"
    assert re.search(
        r"C\._install_pyfunc_deps\('/opt/ml/model', .*env_manager='local'\);", image.instruction("RUN python")
    )
    *requirements, wheels = (image.model / "requirements.txt").read_text().splitlines()
    assert list((image.model / wheels.removeprefix("--find-links ")).glob("mlflow_llm_plugins-*.whl"))
    assert all("==" in line and "+" not in line for line in requirements)
    named = {line.partition("==")[0] for line in requirements}
    assert {"mlflow", "mlflow-llm-plugins[torch]", "torch", "transformers", "tokenizers", "accelerate"} <= named


def test_the_requirements_are_read_beside_the_wheel_that_they_name(image, monkeypatch):
    installed = []
    monkeypatch.setattr(
        container, "Popen", lambda command: installed.append(command) or SimpleNamespace(wait=lambda: 0)
    )
    container._install_model_dependencies_to_env(str(image.model), "local")
    assert installed[0][-2:] == ["-r", str(image.model / "requirements.txt")]


def test_a_container_answers_by_one_worker_and_ends_with_sigterm(command, tmp_path):
    port, log = int(command[-1]), tmp_path / "log"
    with served(command, port, log) as client:
        server = uvicorn_of(command)
        assert "--workers 1" in " ".join(server.cmdline())
        assert server.children() == []

        rows = client.post("/invocations", json={"inputs": ["What is a loop?"], "params": {"max_tokens": 4}})
        assert (rows.status_code, len(rows.json()["predictions"])) == (200, 1)
        chat = ChatCompletion.model_validate(client.post("/invocations/v1/chat/completions", json=CHAT).json())
        text = chat.choices[0].message.content

        with client.stream("POST", "/invocations/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            assert response.headers["x-accel-buffering"] == "no"  # or nginx would keep tokens back
            *events, last = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert last == "[DONE]"
        deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == text
    assert "One worker serves the model." in log.read_text()
    assert "Traceback" not in log.read_text()


def test_the_proxy_of_a_container_lets_the_routes_below_invocations_pass_and_no_other():
    conf = NGINX_CONF.read_text()
    assert re.findall(r"^ +location (.+) \{$", conf, re.M) == ["~ ^/(ping|invocations)", "/"]
    assert re.search(r"location ~ \S+ \{[^}]+ proxy_pass http://uvicorn;", conf)
    assert re.search(r"location / \{\s+return 404 ", conf)
    assert f"server 127.0.0.1:{container.DEFAULT_INFERENCE_SERVER_PORT};" in conf

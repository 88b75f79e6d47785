"""The server keeps to its OpenAPI document, whatever is sent to the routes that it names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import free_port, serve_command, served

pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'mlflow-llm-plugins[test]'")

pytestmark = pytest.mark.slow

LIMITS = {"NEW_TOKENS": 2, "CHOICES": 2, "PROMPTS": 2, "QUESTIONS": 3, "OPTIONS": 4, "LEVELS": 4}
STOCK = ["/ping", "/version"]  # MLflow's own, whose text is no JSON though their content type says so
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
]
EXAMPLES = 30  # of each route, beside those that go through its schema bound by bound


@pytest.fixture
def url(tiny_llama, tmp_path, monkeypatch):
    """The address of a stock `mlflow models serve` with low limits, so that each answer is short."""
    quantized_llm.save_model(
        str(tiny_llama), str(tmp_path / "model"), engine_config={"max_new_tokens": 2}, bundle_plugin=False
    )
    for limit, value in LIMITS.items():
        monkeypatch.setenv(f"MLFLOW_LLM_MAX_{limit}", str(value))
    port = free_port()
    with served(serve_command(str(tmp_path / "model"), port), port, tmp_path / "serve.log") as client:
        yield str(client.base_url)


def test_no_request_makes_the_server_fail_or_answer_what_is_not_documented(url, tmp_path):
    run = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
    data = [
        "--phases",
        "coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--seed",
        "1",
        "--generation-database=none",
    ]
    stock = [f"--exclude-path={path}" for path in STOCK]
    done = subprocess.run(
        [*run, *data, *stock, "--checks", ",".join(CHECKS), "--continue-on-failure", "--warnings=off"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=tmp_path,  # for the configuration that it looks for, and its reports
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 selected / 13 total" in done.stdout

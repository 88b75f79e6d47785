"""Evaluations on a machine without a network: all metrics and model types work, and nothing tries to connect."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from mlflow_llm_plugins import quantized_llm

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys

attempts = []


def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        attempts.append(str(arguments[1]))
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost", "::1", None):
        attempts.append(str(arguments[0]))


sys.addaudithook(watch)
import mlflow, pandas as pd
from mlflow_llm_plugins.metrics import METRICS, contains, divergence, llm_judge, matches_regex

artifact = sys.argv[1]
model = mlflow.pyfunc.load_model(artifact)
data = pd.DataFrame({
    "inputs": ["What is a loop?", "What is a class?", "What is a list?"],
    "context": ["A loop repeats.", "A class makes objects.", "A list holds things."],
    "truth": ["It repeats statements.", "It makes objects.", "It holds things in order."],
})
made = {
    "contains": contains("a"),
    "matches_regex": matches_regex("a+"),
    "divergence": divergence(model),
    "llm_judge": llm_judge("helpful", "Is the answer helpful?", scale="yes/no", judge=model),
}
judges = ("answer_correctness", "answer_similarity", "relevance", "faithfulness", "conciseness")
import mlflow_llm_plugins.metrics as metrics

made |= {name: getattr(metrics, name)(judge=model) for name in judges}
names = [name for name in METRICS if name != "evaluate_metric"]
found = {}
for model_type in ("text", "question-answering", "text-summarization", "llm", "chat"):
    result = mlflow.models.evaluate(model, data, targets="truth", model_type=model_type, evaluators="llm")
    found[model_type] = sorted(result.metrics)
result = mlflow.models.evaluate(
    model, data, targets="truth", model_type=None, evaluators="llm",
    extra_metrics=[made.get(name, name) for name in names],
)
failures = {
    key: metric["failure"] for key, metric in result.artifacts["llm_evaluation"].content["metrics"].items()
    if "failure" in metric
}
counts = {name: result.metrics.get(f"{made[name].name if name in made else name}/v1/count") for name in names}
model.get_raw_model().close()
print(json.dumps({"attempts": attempts, "types": found, "failures": failures, "counts": counts}))
"""


def without_network() -> list[str]:
    """A command that runs another one where only loopback is, if this machine lets us; the watch holds in any case."""
    unshare = shutil.which("unshare")
    if unshare and not subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode:
        return [unshare, "-rn"]
    return []


def test_every_metric_and_model_type_works_without_a_network(tiny_llama, tmp_path):
    artifact = tmp_path / "model"
    quantized_llm.save_model(str(tiny_llama), str(artifact), engine_config={"max_new_tokens": 6}, bundle_plugin=False)
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", SCRIPT, str(artifact)],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["attempts"] == []
    assert said["failures"] == {}
    assert {name: count for name, count in said["counts"].items() if not count} == {}
    assert "perplexity" in said["types"]["text-summarization"]

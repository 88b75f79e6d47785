"""Deployments as models of MLflow's evaluation, by `endpoints:/name`."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def endpoint(client, deployed, chat_model, monkeypatch):
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "local")
    deployed("chat", chat_model)
    client.create_endpoint("e", {"traffic": {"chat": 1}})
    yield "endpoints:/e"
    client.delete_endpoint("e")


def test_evaluate_asks_an_endpoint_row_by_row(endpoint, tracking):
    questions = ["What is a loop?", "What is a class?", "What is a list?"]
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            model=endpoint,
            data=pd.DataFrame({"inputs": questions}),
            inference_params={"max_tokens": 5, "temperature": 0},
            extra_metrics=[mlflow.metrics.latency()],
            evaluators="default",
        )
    table = result.tables["eval_results_table"]
    assert list(table["inputs"]) == questions
    assert all(isinstance(answer, str) and answer for answer in table["outputs"])
    assert result.metrics["latency/mean"] > 0


def test_the_metrics_that_ask_a_judge_reach_an_endpoint(endpoint):
    from mlflow.metrics.genai.model_utils import score_model_on_payload

    answer = score_model_on_payload(endpoint, "What is a loop?", {"max_tokens": 4})
    assert isinstance(answer, str)


def test_an_endpoint_tells_its_task_as_key_and_as_attribute(endpoint, client):
    described = client.get_endpoint("e")
    assert described["task"] == described.task == described.endpoint_type == "llm/v1/chat"
    assert dict(described)["traffic"] == {"chat": 1.0}

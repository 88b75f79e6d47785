"""Deployments as models of the evaluator `llm`: all rows in flight, timed by streams, asked by judges."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest

from mlflow_llm_plugins.metrics import llm_judge

pytestmark = pytest.mark.slow

QUESTIONS = ["What is a loop?", "What is a class?", "What is a list?"]


@pytest.fixture
def endpoint(client, deployed, chat_model, monkeypatch):
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "local")
    deployed("chat", chat_model)
    client.create_endpoint("e", {"traffic": {"chat": 1}})
    yield "endpoints:/e"
    client.delete_endpoint("e")


def test_endpoint_is_measured_and_judges_itself(endpoint, tracking):
    result = mlflow.models.evaluate(
        endpoint,
        pd.DataFrame({"inputs": QUESTIONS, "truth": QUESTIONS}),
        targets="truth",
        model_type="question-answering",
        inference_params={"max_tokens": 5, "temperature": 0},
        extra_metrics=[
            "latency",
            "time_to_first_token",
            llm_judge("helpful", "Is the answer helpful?", scale="yes/no", judge=endpoint, control_rows=False),
            llm_judge("short", "Is the answer short?", scale=(1, 3), judge="deployments:/chat", control_rows=False),
        ],
        evaluators="llm",
        evaluator_config={"latency_sample_size": 2},
    )
    table = result.tables["eval_results_table"]
    assert list(table["outputs"]) == [client_answer(question) for question in QUESTIONS]
    assert result.metrics["error_rate"] == 0
    assert 0 < result.metrics["time_to_first_token"] < result.metrics["latency"]
    assert result.metrics["completion_tokens/total"] <= 5 * len(QUESTIONS)
    assert table["helpful/v1/score"].between(0, 1).all()
    assert table["short/v1/score"].between(1, 3).all()


def client_answer(question):
    from mlflow.deployments import get_deploy_client

    request = {"messages": [{"role": "user", "content": question}], "max_tokens": 5, "temperature": 0}
    return get_deploy_client("local").predict(endpoint="e", inputs=request)["predictions"][0]

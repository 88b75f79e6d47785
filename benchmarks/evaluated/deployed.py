"""MLflow's `make_genai_metric` with the judges' model behind a deployment of ours, asked as `endpoints:/judge`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.evaluated.cases import (
    ROOM,
    VERDICT,
    VERDICT_TOKENS,
    Cases,
    judging_model,
    judging_tokenizer,
    stock_metric,
)
from benchmarks.evaluated.job import CPU, Figures, Job
from benchmarks.evaluated.stopwatch import Stopwatch
from benchmarks.models import SHAPES

NAME = "judge"
CLIENT = "client, CPU [s]"
START_S = 600


def judge_deployed(job: Job, *, is_constrained: bool) -> Figures:
    """CPU time is that of all processes of the deployment; what MLflow spends here is told beside it.

    Args:
        job: What is asked for.
        is_constrained: Have the server keep the form of the written verdict, which MLflow does not ask for by itself.
    """
    import pandas as pd

    tokens = {"temperature": 0.0, "max_tokens": VERDICT_TOKENS}
    form = {"regex": VERDICT, "max_tokens": VERDICT_TOKENS + ROOM} if is_constrained else {}
    with tempfile.TemporaryDirectory() as name, deployed(job, Path(name)) as (client, tokenizer):
        cases, watch = Cases.of(tokenizer, job.rows), Stopwatch()
        metric = stock_metric(f"endpoints:/{NAME}", {**tokens, **form})
        before = cpu_seconds(client)
        with watch.running():
            found = metric.eval_fn(pd.Series(cases.answers), {}, pd.Series(cases.questions))
        spent = cpu_seconds(client) - before
    check(found.justifications)
    valid = [score is not None and 1 <= score <= 5 for score in found.scores]
    here = watch.figures()
    return {**here, CPU: spent, CLIENT: here[CPU], "valid": sum(valid) / len(valid)}


@contextmanager
def deployed(job: Job, folder: Path) -> Iterator[tuple[Any, Any]]:
    """(client, tokenizer) of a deployment under an endpoint, which has answered two short requests."""
    from mlflow.deployments import get_deploy_client

    tokenizer = save_model(job, folder)
    os.environ["MLFLOW_DEPLOYMENTS_TARGET"] = f"local:{folder / 'home'}"
    client = get_deploy_client()
    try:
        client.create_deployment(NAME, str(folder / "model"), config={"ready_timeout_s": START_S})
        client.create_endpoint(NAME, {"traffic": {NAME: 1}})
        for text in ("a loop", "a class"):
            message = {"role": "user", "content": text}
            client.predict(endpoint=NAME, inputs={"messages": [message], "max_tokens": 4})
        yield client, tokenizer
    finally:
        if any(found["name"] == NAME for found in client.list_deployments()):
            client.delete_deployment(NAME)


def save_model(job: Job, folder: Path) -> Any:
    """Write it as a user would log it; its tokenizer."""
    from mlflow_llm_plugins import quantized_llm

    shape = SHAPES[job.model]
    tokenizer = judging_tokenizer(shape.vocabulary)
    pair = {"model": judging_model(shape), "tokenizer": tokenizer}
    quantized_llm.save_model(pair, folder / "model", task="llm/v1/chat", bundle_plugin=False)
    return tokenizer


def cpu_seconds(client: Any) -> float:
    """Of all living processes of the deployment, and of those of their children that have ended."""
    root = psutil.Process(client.get_deployment(NAME)["supervisor_pid"])
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def check(justifications: list[str | None]) -> None:
    """Raise where the server was not reached; that an answer is no verdict is a figure."""
    failed = [text for text in justifications if text is not None and text.startswith("Failed to score model")]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0].replace(os.linesep, ' ')[:200]}")

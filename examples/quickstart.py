"""From nothing to a served, quantized language model in stock MLflow.

    python examples/quickstart.py                                  # trains a tiny Llama first; needs no network
    python examples/quickstart.py --model path/or/hub-id           # the same with any causal language model

Everything is written below --output: the MLflow database, the artifacts and the logs. Look at the result with
`mlflow ui --backend-store-uri sqlite:///quickstart-output/mlflow.db`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import requests
from rich.console import Console
from rich.table import Table
from tiny_llm import held_out_texts, train_tiny_llm

from mlflow_llm_plugins import quantized_llm

NAME = "chat"
CHAMPION = f"models:/{NAME}@champion"
QUANTIZATIONS = {"fp32": None, "int8": "int8", "NF4": "nf4"}
TITLES = {"artifact_mb": "artifact MB", "memory_mb": "memory MB", "perplexity": "held-out perplexity"}
QUESTION = "What is a context manager?"
SERVER_START_S = 300
WINDOW = 256  # tokens that the perplexity looks at together
MAX_WINDOWS = 40

console = Console()


@dataclass(frozen=True)
class Variant:
    """One way of storing the model, and what it costs."""

    artifact_mb: float
    memory_mb: float
    perplexity: float  # a token, on text the model was not trained on


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    model = arguments.model or str(tiny_model(output / "tiny-llm", arguments.seconds))
    store = f"sqlite:///{output / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = store  # for the commands below; this process is told by the next line
    # `mlflow models serve` starts `uvicorn` by name, which must be found even if this environment is not activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mlflow.set_tracking_uri(store)
    use_experiment(output)

    console.rule("Log as NF4, register, set the alias champion")
    log_champion(model)

    console.rule(f"Ask {CHAMPION} through pyfunc")
    ask_through_pyfunc(arguments.max_tokens)

    console.rule("mlflow models predict")
    predict_with_the_command(output, arguments.max_tokens)

    console.rule("mlflow models serve")
    with served_model(output / "serve.log") as url:
        console.print(post_chat(url, arguments.max_tokens))

    console.rule("What quantization costs")
    variants = {name: measure(model, name, value) for name, value in QUANTIZATIONS.items()}
    console.print(comparison(variants))
    draw(variants)
    console.print(f"Look around: mlflow ui --backend-store-uri {store}", soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or checkpoint directory; without it a tiny Llama is trained")
    parser.add_argument("--seconds", type=float, default=60, help="training time of the tiny Llama")
    parser.add_argument("--max-tokens", type=int, default=48, help="new tokens of each answer")
    parser.add_argument("--output", type=Path, default=Path("quickstart-output"), help="where everything is written")
    return parser.parse_args()


def tiny_model(path: Path, seconds: float) -> Path:
    """Train the model, unless an earlier run has left one."""
    if not (path / "config.json").exists():
        train_tiny_llm(path, seconds=seconds)
    return path


def use_experiment(output: Path) -> None:
    """Keep the artifacts below the output folder, wherever the command was started."""
    if mlflow.get_experiment_by_name("quickstart") is None:
        mlflow.create_experiment("quickstart", artifact_location=(output / "artifacts").as_uri())
    mlflow.set_experiment("quickstart")


def log_champion(model: str) -> None:
    with mlflow.start_run(run_name="NF4"):
        info = quantized_llm.log_model(model, name=NAME, quantization="nf4", registered_model_name=NAME)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(NAME, "champion", info.registered_model_version)
    console.print(f"{info.model_uri} is version {info.registered_model_version} of {NAME}, alias champion")


def ask_through_pyfunc(max_tokens: int) -> None:
    model = mlflow.pyfunc.load_model(CHAMPION)
    params = {"max_tokens": max_tokens}
    console.print("A prompt:", model.predict(QUESTION, params=params))
    table = pd.DataFrame({"prompt": [QUESTION, "How do I write a loop?"]})
    console.print("A DataFrame:", model.predict(table, params=params))
    chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": max_tokens}
    console.print("A chat:", model.predict(chat))
    model.get_raw_model().close()


def predict_with_the_command(output: Path, max_tokens: int) -> None:
    request = output / "request.json"
    request.write_text(json.dumps({"inputs": [QUESTION], "params": {"max_tokens": max_tokens}}), encoding="utf-8")
    command = ["models", "predict", "-m", CHAMPION, "--env-manager", "local", "-t", "json", "-i", str(request)]
    answer = subprocess.run(
        [sys.executable, "-m", "mlflow", *command], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    )
    console.print(answer.stdout.strip())


@contextmanager
def served_model(log: Path) -> Iterator[str]:
    """The address of a server for the champion, up and answering; stopped at the end."""
    url = f"http://127.0.0.1:{free_port()}"
    port = url.rpartition(":")[2]
    command = ["models", "serve", "-m", CHAMPION, "--env-manager", "local", "-h", "127.0.0.1", "-p", port]
    with log.open("wb") as output:
        server = subprocess.Popen([sys.executable, "-m", "mlflow", *command], stdout=output, stderr=output)
    try:
        wait_for_answer(f"{url}/ping", server, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for_answer(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"The server ended with status {server.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    sys.exit(f"The server did not answer within {SERVER_START_S} s; see {log}.")


def post_chat(url: str, max_tokens: int) -> dict[str, Any]:
    chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": max_tokens, "temperature": 0}
    response = requests.post(f"{url}/invocations", json=chat, timeout=120)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def measure(model: str, name: str, quantization: str | None) -> Variant:
    """Log the model in this form and measure what comes back from the artifact."""
    with mlflow.start_run(run_name=name):
        # float32 for all three, so that they differ in nothing but the quantization
        info = quantized_llm.log_model(model, name=NAME, quantization=quantization, engine_config={"dtype": "float32"})
        footprint = quantized_llm.load_model(info.model_uri, return_type="model").get_memory_footprint()
        engine = mlflow.pyfunc.load_model(info.model_uri).get_raw_model()
        variant = Variant(
            artifact_mb=artifact_bytes(info.model_uri) / 1e6,
            memory_mb=footprint / 1e6,
            perplexity=perplexity(engine),
        )
        engine.close()
        mlflow.log_metrics({"artifact_mb": variant.artifact_mb, "memory_mb": variant.memory_mb})
        mlflow.log_metric("held_out_perplexity", variant.perplexity)
    return variant


def artifact_bytes(model_uri: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=folder))
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def perplexity(engine: Any) -> float:
    """exp of the mean negative log-probability of a token, over windows of held-out text."""
    windows = [
        ids[start : start + WINDOW]
        for ids in (engine.tokenizer(text, verbose=False).input_ids for text in held_out_texts())
        for start in range(0, len(ids), WINDOW)
    ]
    scores = engine.score([window for window in windows if len(window) > 1][:MAX_WINDOWS])
    logprobs = [logprob for row in scores for logprob in row]
    return math.exp(-sum(logprobs) / len(logprobs))


def comparison(variants: dict[str, Variant]) -> Table:
    table = Table("", *TITLES.values())
    for name, variant in variants.items():
        table.add_row(name, f"{variant.artifact_mb:.2f}", f"{variant.memory_mb:.2f}", f"{variant.perplexity:.2f}")
    return table


def draw(variants: dict[str, Variant]) -> None:
    """Log the table as a chart, with the runs that it compares."""
    figure, charts = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for chart, (field, title) in zip(charts, TITLES.items(), strict=True):
        bars = chart.bar(list(variants), [getattr(variant, field) for variant in variants.values()])
        chart.bar_label(bars, fmt="%.2f")
        chart.set(title=title)
        chart.margins(y=0.15)  # room for the labels
    with mlflow.start_run(run_name="comparison"):
        mlflow.log_figure(figure, "quantization.png")
    plt.close(figure)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

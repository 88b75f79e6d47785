"""From nothing to a served, quantized language model in stock MLflow.

    python examples/quickstart.py                                  # trains a tiny Llama first; needs no network
    python examples/quickstart.py --model path/or/hub-id           # the same with any causal language model

Everything is written below --output: the MLflow database, the artifacts and the logs. Look at the result with
`mlflow ui --backend-store-uri sqlite:///quickstart-output/mlflow.db`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import requests
from rich.console import Console
from rich.table import Table
from tiny_llm import held_out_texts, train_tiny_llm

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.evaluation import Comparison, compare_models
from mlflow_llm_plugins.metrics import latency, perplexity

NAME = "chat"
CHAMPION = f"models:/{NAME}@champion"
QUANTIZATIONS = {"fp32": None, "int8": "int8", "NF4": "nf4"}
QUESTION = "What is a context manager?"
SERVER_START_S = 300
ROWS, TEXT_LENGTH = 24, 1500  # of held-out text, in characters

console = Console()


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
    variants = {name: log_variant(model, name, value) for name, value in QUANTIZATIONS.items()}
    console.print(table_of(compare(variants, arguments.max_tokens)))
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


def log_variant(model: str, name: str, quantization: str | None) -> str:
    """Log the model in this form, and return its URI."""
    with mlflow.start_run(run_name=f"log {name}"):
        # float32 for all three, so that they differ in nothing but the quantization
        config = {"dtype": "float32"}
        return quantized_llm.log_model(model, name=NAME, quantization=quantization, engine_config=config).model_uri


def compare(variants: dict[str, str], max_tokens: int) -> Comparison:
    """Evaluate the variants on text that the tiny model was not trained on; tables and plots go into the run."""
    texts = [text[:TEXT_LENGTH] for text in held_out_texts()][:ROWS]
    return compare_models(
        variants,
        pd.DataFrame({"prompt": [f"Tell me about this: {text[:40]}" for text in texts], "text": texts}),
        targets="text",
        metrics=[perplexity(), latency()],
        evaluator_config={"params": {"max_tokens": max_tokens}, "latency_sample_size": 4},
        run_name="comparison",
    )


def table_of(comparison: Comparison) -> Table:
    table = Table("", "artifact MB", "memory MB", "latency s", "held-out perplexity", "against fp32, 95% interval")
    ratios = comparison.differences.query("metric == 'perplexity'").set_index("variant")
    for row in comparison.table.to_dict("records"):
        sizes = [f"{row[name] / 1e6:.2f}" for name in ("model/size_bytes", "model/loaded_weight_bytes")]
        figures = [f"{row[name]:.3g}" for name in ("latency", "perplexity")]
        table.add_row(row["variant"], *sizes, *figures, ratio_of(ratios, row["variant"]))
    return table


def ratio_of(ratios: pd.DataFrame, variant: str) -> str:
    """How many times higher the perplexity is; the baseline is compared with nothing."""
    if variant not in ratios.index:
        return ""
    estimate, low, high = ratios.loc[variant, ["estimate", "low", "high"]]
    return f"x {estimate:.3f} ({low:.3f} to {high:.3f})"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

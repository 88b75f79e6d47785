"""Quality and speed of one recipe: `python -m benchmarks.scored_recipe RECIPE FOLDER RESULT TEXTS`.

FOLDER has the checkpoint, and keeps artifacts; TEXTS limits the held-out texts, 0 takes all. Run by
`benchmarks.quality`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.quality import BASELINE, RECIPES

ROWS = (1, 16)
NEW_TOKENS = 64
PROMPT_CHARACTERS = 200
ROUNDS = 3  # of each speed; the fastest counts
FIGURES = {
    "perplexity ratio": "perplexity_ratio",
    "KL divergence [nats]": "kl_divergence_mean",
    "top-1 agreement": "top1_agreement",
}


@contextmanager
def opened(recipe: str, folder: Path) -> Iterator[Any]:
    """The engine of the recipe's artifact, which is written where it is not there yet."""
    import mlflow

    from mlflow_llm_plugins import quantized_llm

    artifact = folder / recipe.replace(" ", "-").replace(",", "")
    if not artifact.is_dir():
        quantized_llm.save_model(str(folder / "checkpoint"), artifact, bundle_plugin=False, **RECIPES[recipe])
    engine = mlflow.pyfunc.load_model(str(artifact)).get_raw_model()
    try:
        yield engine
    finally:
        engine.close()


def quality(engine: Any, baseline: Any, texts: Sequence[str]) -> dict[str, float]:
    """By the metric `divergence`."""
    from mlflow_llm_plugins.metrics import divergence

    found = divergence(baseline, engine, texts="targets")(targets=texts).aggregate_results
    return {name: found[figure] for name, figure in FIGURES.items()}


def speeds(engine: Any, texts: Sequence[str]) -> dict[str, float]:
    """Tokens a second, of the fastest round."""
    return {f"tokens/s, {rows} at a time": max(_speed(engine, texts, rows) for _ in range(ROUNDS)) for rows in ROWS}


def _speed(engine: Any, texts: Sequence[str], rows: int) -> float:
    from mlflow_llm_plugins.generation import GenerationRequest

    prompts = [
        text[number * 7 :][:PROMPT_CHARACTERS] for number in range(rows) for text in [texts[number % len(texts)]]
    ]
    ids = [engine.tokenizer(prompt)["input_ids"] for prompt in prompts]
    started = time.perf_counter()
    streams = [engine.submit(GenerationRequest(row, max_new_tokens=NEW_TOKENS, eos_token_ids=())) for row in ids]
    tokens = sum(stream.result().completion_tokens for stream in streams)
    return tokens / (time.perf_counter() - started)


def figures(recipe: str, folder: Path, texts: Sequence[str]) -> Mapping[str, float]:
    """Speed first, while no other engine is there."""
    with opened(recipe, folder) as engine:
        found = speeds(engine, texts)
        with opened(BASELINE, folder) as baseline:
            return {**quality(engine, baseline, texts), **found}


def main() -> None:
    from examples.tiny_llm import held_out_texts

    recipe, folder, result, count = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    texts = held_out_texts()[: count or None]
    result.write_text(json.dumps(figures(recipe, folder, texts)), encoding="utf-8")


if __name__ == "__main__":
    main()

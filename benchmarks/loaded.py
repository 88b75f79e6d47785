"""Load an artifact in this process and time it: `python -m benchmarks.loaded ARTIFACT RESULT`.

Imports nothing heavy before the clock starts. The result is a JSON file of figures.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def figures(artifact: str) -> dict[str, float]:
    """Seconds of each part."""
    started = time.perf_counter()
    import mlflow

    imported = time.perf_counter()
    engine = mlflow.pyfunc.load_model(artifact).get_raw_model()
    opened = time.perf_counter()
    try:
        _answer_one_token(engine)
        answered = time.perf_counter()
    finally:
        engine.close()
    return {
        "import mlflow [s]": imported - started,
        "load [s]": opened - imported,
        "first token [s]": answered - opened,
        "ready after the import [s]": answered - imported,
    }


def _answer_one_token(engine: object) -> None:
    from mlflow_llm_plugins.generation import GenerationRequest

    engine.submit(GenerationRequest([1, 2, 3], max_new_tokens=1, eos_token_ids=())).result()  # type: ignore[attr-defined]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(figures(sys.argv[1])), encoding="utf-8")

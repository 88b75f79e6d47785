"""The evaluator `llm` against MLflow's default one, and judges that choose against judges that write.

    python -m benchmarks.evaluation [--what evaluator,judge] [--models 40m] [--rows 200] [--max-tokens 32] [--runs 3]

Evaluators, on a model of the flavor `quantized_llm` that is loaded and has answered two short prompts:

ours                `mlflow.models.evaluate(..., evaluators="llm")`, which also tells what the time went into
stock               the same call with `evaluators="default"`, where this package's hooks are switched off

Both compute ari_grade_level and exact_match, once with `latency()` and once without. What the model type
question-answering computes besides needs data of other projects and is left out on both sides.

Judges, of rows of 100 to 250 tokens under a rubric of about 250, all by the same model with random weights:

judge               `llm_judge` in one order and without control rows, options of one token; the bars are for this one
judge-words         the same, options of up to four tokens
judge-default       `llm_judge` as it comes, with control rows
judge-two-orders    with control rows and both orders of the options
json                verdict and one sentence as JSON of 40 tokens, by the same engine, in this form by a constraint
json-uncached       the same without the engine's prefix cache
genai               MLflow's `make_genai_metric`, 40 tokens, with the model behind a local deployment of this package
genai-constrained   the same, and the server keeps the form of the answer

Forward tokens are all that went through the model, padding included; own tokens are those of a row's prompt behind
the beginning that all rows share, which is the rubric. A verdict is valid if it can be read and is on the scale.

Contenders take turns, in fresh processes each; figures are medians of `--runs` turns. CPU seconds are those of the
process, for `genai` those of all processes of the deployment. The machine should have nothing else to do.

The figures are printed, saved as CSV and PNG, and logged to the active MLflow tracking store.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.evaluated.options import parse_arguments
from benchmarks.evaluated.plots import plot
from benchmarks.evaluated.rows import About, Row, part_rows, rows_of
from benchmarks.evaluated.table import table_of
from benchmarks.evaluated.tracking import log_rows
from benchmarks.evaluated.turns import INTERRUPTED, Turns, save_artifact
from benchmarks.report import Origin, save, show

LIBRARIES = ("mlflow-llm-plugins", "mlflow", "torch", "transformers", "llguidance", "textstat", "pandas")
SETTINGS = ("what", "contenders", "runs")
WIDTH = 170


def about(what: str, model: str, options: argparse.Namespace) -> About:
    return About(
        what=what,
        model=model,
        data_rows=options.rows,
        max_tokens=options.max_tokens,
        **asdict(Origin.of("benchmarks.evaluation", LIBRARIES)),
    )


def tables_of(turns: Turns, found: About) -> Iterator[list[Row]]:
    """The rows of each table that is not empty."""
    for rows in (list(rows_of(found, turns.results)), list(part_rows(found, turns.results))):
        if rows:
            yield rows


def report(tables: Sequence[Sequence[Row]], options: argparse.Namespace) -> None:
    """Print, save and log the tables of one model."""
    files = []
    for rows in tables:
        show(table_of(rows), width=WIDTH)
        stem = f"evaluation_{rows[0].what}_{rows[0].model}"
        files += [save(rows, options.output / f"{stem}.csv"), plot(rows, options.output / f"{stem}.png")]
    for file in files:
        print(f"saved {file}", flush=True)
    settings = {name: getattr(options, name) for name in SETTINGS}
    run_id = log_rows([row for rows in tables for row in rows], settings, files)
    print(f"logged the MLflow run {run_id}", flush=True)


def measure(model: str, options: argparse.Namespace) -> Iterator[tuple[Turns, About]]:
    """Take the turns of all that is wanted; ends after what was interrupted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what in options.what:
            turns = Turns.of(what, model, options, folder)
            if what == "evaluator" and turns.jobs:
                save_artifact(model, folder)
            turns.take(folder)
            yield turns, about(what, model, options)
            if not turns.is_whole:
                return


def main() -> int:
    """Measure and report; the exit status."""
    options = parse_arguments(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    for model in options.models:
        taken = list(measure(model, options))
        if tables := [rows for turns, found in taken for rows in tables_of(turns, found)]:
            report(tables, options)
        if not all(turns.is_whole for turns, _ in taken):
            return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())

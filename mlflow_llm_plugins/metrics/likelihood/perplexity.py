"""Perplexity of a model on texts: e to the mean negative log-probability of a token, over the tokens of all rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_llm_plugins.metrics.engines import ScoringEngine
from mlflow_llm_plugins.metrics.likelihood.figures import NO_MEANS, Numbers, exponential, perplexity_with_error
from mlflow_llm_plugins.metrics.likelihood.scoring import token_logprobs
from mlflow_llm_plugins.metrics.likelihood.subject import (
    Subject,
    TextColumn,
    check_column,
    choose_column,
    declare_needed,
)
from mlflow_llm_plugins.metrics.likelihood.tokens import START_TOKEN, TokenText, drop_short, encode_cells
from mlflow_llm_plugins.metrics.likelihood.windows import Windows, WindowSettings
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, row_scores

_CONTEXT_LENGTH = 2048  # of a window: more context costs much time and changes little
_FIGURES = ("standard_error", "bits_per_byte", "tokens", "context_length", "stride")
_DETAILS = (
    "exp(total negative log-likelihood / scored tokens), sliding window as in 'Perplexity of fixed-length models' "
    "(transformers). standard_error as in llama.cpp: perplexity times that of the mean over tokens, taken as "
    "independent. bits_per_byte: total / ln 2 / UTF-8 bytes of the text behind its first token, which nothing "
    "predicts, or of the whole text where a start token comes before it; it compares models with other tokenizers."
)


def perplexity(
    model: Any = None,
    *,
    texts: TextColumn | None = None,
    context_length: int | None = None,
    stride: int | None = None,
    name: str = "perplexity",
) -> LLMMetric:
    """How well a model predicts texts; lower is better, and only models with the same tokenizer compare.

    A row's score is the perplexity of its text. The figures are over the tokens of all rows: `perplexity` (under the
    metric's name), its `standard_error`, `bits_per_byte`, `tokens` that were scored, the `count` of rows, and the
    `context_length` and `stride` of the windows that were used. With weights of 16 bits or fewer a row's score depends
    slightly on the rows that are computed beside it, because batches of other shapes round differently.

    Args:
        model: A model of the flavor `quantized_llm`: its URI, the model as `mlflow.pyfunc.load_model` gives it, or an
            engine. None: the evaluated model, in the evaluator `llm`.
        texts: The column with the texts: "targets", "predictions" or "inputs". None: the targets where there are any,
            else the predictions. Texts that others wrote measure the model; its own predictions measure only how sure
            it was of them. Targets or inputs that were chosen are needed, and go by name.
        context_length: Tokens of a window, at least 2. None: 2048, or the model's context where that is shorter.
        stride: Tokens from window to window; fewer give each token more context and take more time. None: half the
            window.
        name: The metric's name, to have several in one evaluation.

    Raises:
        InvalidInputError: A setting is wrong; when it scores: there is no such column, no model to ask, or its context
            is shorter than `context_length`.
    """
    check_column(texts, "perplexity")
    settings = WindowSettings(context_length, stride, _CONTEXT_LENGTH, "perplexity")
    subject = Subject(model, "perplexity")

    def prepared(evaluated: Any) -> tuple[ScoringEngine, Windows]:
        asked = subject.engine(evaluated)
        return asked, settings.windows(asked.stats().max_context_length)

    def eval_fn(
        predictions: Iterable[Any] | None = None,
        targets: Iterable[Any] | None = None,
        inputs: Iterable[Any] | None = None,
        engine: Any = None,
    ) -> RowScores:
        columns: Mapping[TextColumn, Iterable[Any] | None]
        columns = {"predictions": predictions, "targets": targets, "inputs": inputs}
        cell, cells = choose_column(texts, columns, "perplexity")
        asked, windows = prepared(engine)
        encoded, reasons = drop_short(*encode_cells(cells, cell, asked.tokenizer), cell)
        logprobs, refusals = token_logprobs(asked, encoded, windows)
        reasons = [why or refusal for why, refusal in zip(reasons, refusals, strict=True)]
        return _put_together(name, encoded, logprobs, reasons, windows)

    return LLMMetric(
        declare_needed(eval_fn, texts),
        name,
        greater_is_better=False,
        main=name,
        figures=_FIGURES,
        metric_details=_DETAILS,
        metric_metadata={
            **settings.as_json(),
            "texts": texts or "targets, or predictions where there are none",
            "start_token": START_TOKEN,
            "model": model if isinstance(model, str) else None,
        },
        prepare=prepared,
    )


@dataclass(frozen=True, slots=True)
class _ScoredText:
    nll: Numbers  # of each scored token
    total: float
    byte_count: int

    @property
    def perplexity(self) -> float:
        return exponential(self.total / len(self.nll))

    @property
    def bits_per_byte(self) -> float:
        return _bits(self.total, self.byte_count)


def _put_together(
    name: str,
    texts: Sequence[TokenText | None],
    logprobs: Sequence[Numbers | None],
    reasons: Sequence[str | None],
    windows: Windows,
) -> RowScores:
    rows: list[_ScoredText | None] = []
    why = list(reasons)
    for index, (text, found) in enumerate(zip(texts, logprobs, strict=True)):
        row = None
        try:
            row = None if text is None or found is None else _scored(text, found)
        except NotScoredError as reason:
            why[index] = str(reason)
        rows.append(row)
    return row_scores(
        [row.perplexity if row else None for row in rows],
        why,
        aggregates={**NO_MEANS, **_aggregates(name, [row for row in rows if row], windows)},
        columns={
            "tokens": [len(row.nll) if row else None for row in rows],
            "bits_per_byte": [row.bits_per_byte if row else None for row in rows],
        },
    )


def _scored(text: TokenText, logprobs: Numbers) -> _ScoredText:
    if not np.isfinite(logprobs).all():
        raise NotScoredError("the model gave a log-probability that is not finite")
    row = _ScoredText(-logprobs, -math.fsum(logprobs), text.byte_count)
    if not math.isfinite(row.perplexity):
        raise NotScoredError("its perplexity is beyond the numbers that a float can hold")
    return row


def _aggregates(name: str, rows: Sequence[_ScoredText], windows: Windows) -> Mapping[str, float]:
    if not rows:
        return {}
    nll = np.concatenate([row.nll for row in rows])
    value, error = perplexity_with_error(nll)
    bits = _bits(math.fsum(row.total for row in rows), sum(row.byte_count for row in rows))
    figures = {"standard_error": error, "bits_per_byte": bits, "tokens": len(nll)}
    return {name: value, **figures, **windows.figures()}


def _bits(nll: float, byte_count: int) -> float:
    """NaN where no bytes count: nothing but special tokens that were written out."""
    return nll / math.log(2) / byte_count if byte_count else math.nan

"""How far a model's probabilities are from a baseline's: what quantization, pruning or merging changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.likelihood.distributions import TokenComparison, compare, join
from mlflow_llm_plugins.metrics.likelihood.figures import (
    NO_MEANS,
    error_of_mean,
    exponential,
    mean,
    percentiles,
    perplexity_with_error,
    with_error,
)
from mlflow_llm_plugins.metrics.likelihood.scoring import progress
from mlflow_llm_plugins.metrics.likelihood.subject import Subject, TextColumn, check_column, choose_column
from mlflow_llm_plugins.metrics.likelihood.tokens import START_TOKEN, TokenText, encode_cells
from mlflow_llm_plugins.metrics.likelihood.windows import Windows, WindowSettings
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, row_scores
from mlflow_llm_plugins.metrics.models import ModelHandle, ScoringEngine

_CONTEXT_LENGTH = 512  # of a window, as llama.cpp's
_DETAILS = (
    "Figures of llama.cpp's perplexity tool with --kl-divergence, over the tokens of all rows, in float64 before the "
    "softmax: divergence = sum of p (ln p - ln q), with p of the baseline. Unlike there, texts are rows of their own "
    "and all tokens but a row's first are scored, in overlapping windows. Standard errors take tokens as independent."
)


def divergence(
    baseline: Any,
    model: Any = None,
    *,
    texts: TextColumn | None = None,
    context_length: int | None = None,
    stride: int | None = None,
    name: str = "divergence",
) -> LLMMetric:
    """How far a model is from a baseline with the same tokens; lower is better.

    A row's score is the mean Kullback-Leibler divergence of its tokens, in nats. The figures are over the tokens of
    all rows, `_standard_error` beside those marked *: `kl_divergence_mean`*, `_median`, `_max`, `_min` and percentiles
    such as `_p99`; `top1_agreement`*, the share of places with the same most probable token; `perplexity_model`*,
    `perplexity_baseline`*, their `perplexity_ratio`* and `log_ratio`*; `delta_p_mean`*, `delta_p_rms`* and percentiles
    of the change of the probability of the text's token; `tokens`, and the `count` of rows.

    Args:
        baseline: The model that the other one is to resemble, for example the one that was quantized. As for
            `perplexity`: a URI, a loaded model or an engine.
        model: The other one; None: the evaluated model, in the evaluator `llm`.
        texts: The column with the texts: "targets", "predictions" or "inputs". None: the targets where there are any,
            else the predictions.
        context_length: Tokens of a window, at least 2. None: 512, or a model's context where that is shorter.
        stride: Tokens from window to window. None: half the window.
        name: The metric's name, to have several in one evaluation.

    Raises:
        InvalidInputError: A setting is wrong; when it scores: there is no such column or model, or the models have
            different tokens.
    """
    check_column(texts, "divergence")
    settings = WindowSettings(context_length, stride, _CONTEXT_LENGTH, "divergence")
    reference, subject = ModelHandle(baseline, "divergence(baseline=...)"), Subject(model, "divergence")

    def eval_fn(
        predictions: Iterable[Any] | None = None,
        targets: Iterable[Any] | None = None,
        inputs: Iterable[Any] | None = None,
        engine: Any = None,
    ) -> RowScores:
        columns: Mapping[TextColumn, Iterable[Any] | None]
        columns = {"predictions": predictions, "targets": targets, "inputs": inputs}
        cell, cells = choose_column(texts, columns, "divergence")
        pair = reference.engine(), subject.engine(engine)
        windows = settings.windows(*(each.stats().max_context_length for each in pair))
        encoded, reasons = _encoded_alike(cells, cell, *pair)
        return _put_together(*_compared(*pair, encoded, reasons, windows))

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=False,
        main="kl_divergence_mean",
        metric_details=_DETAILS,
        metric_metadata={
            **settings.as_json(),
            "texts": texts or "targets, or predictions where there are none",
            "start_token": START_TOKEN,
            "baseline": baseline if isinstance(baseline, str) else None,
            "model": model if isinstance(model, str) else None,
        },
        prepare=lambda engine: (reference.engine(), subject.engine(engine)),
    )


def _encoded_alike(
    cells: Sequence[object], name: str, baseline: ScoringEngine, model: ScoringEngine
) -> tuple[list[TokenText | None], list[str | None]]:
    """The texts as tokens, which must be the same for both."""
    encoded, reasons = encode_cells(cells, name, baseline.tokenizer)
    others, _ = encode_cells(cells, name, model.tokenizer)
    for row, (ours, theirs) in enumerate(zip(encoded, others, strict=True)):
        _refuse_difference(row, ours.ids if ours else [], theirs.ids if theirs else [])
    return encoded, reasons


def _refuse_difference(row: int, baseline: Sequence[int], model: Sequence[int]) -> None:
    if baseline == model:
        return
    pairs = enumerate(zip(baseline, model, strict=False))
    place = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(baseline), len(model)))
    ours, theirs = (str(ids[place]) if place < len(ids) else "missing" for ids in (baseline, model))
    raise InvalidInputError(
        f"divergence: baseline and model must make the same tokens of every text, but in row {row} token {place} is "
        f"{ours} for the baseline and {theirs} for the model. Compare bits_per_byte of perplexity() instead."
    )


def _compared(
    baseline: ScoringEngine,
    model: ScoringEngine,
    texts: Sequence[TokenText | None],
    reasons: Sequence[str | None],
    windows: Windows,
) -> tuple[list[TokenComparison | None], list[str | None]]:
    rows: list[TokenComparison | None] = []
    why = list(reasons)
    with progress("Comparing models", sum(windows.tokens_of(len(text.ids)) for text in texts if text)) as bar:
        for index, text in enumerate(texts):
            row = None
            try:
                row = _compared_text(baseline, model, text.ids, windows, bar) if text else None
            except NotScoredError as reason:
                why[index] = str(reason)
            rows.append(row)
    return rows, why


def _compared_text(
    baseline: ScoringEngine, model: ScoringEngine, ids: list[int], windows: Windows, bar: tqdm[Any]
) -> TokenComparison:
    parts = []
    for window in windows.of(len(ids)):
        own, first = ids[window.start : window.end], window.first - window.start
        try:
            ours, theirs = baseline.logits(own, first), model.logits(own, first)
        except InvalidInputError as error:
            raise NotScoredError(f"a model refuses it: {error}") from error
        parts.append(compare(ours, theirs, own[first:]))
        bar.update(len(own))
    whole = join(parts)
    if not whole.is_finite:
        raise NotScoredError("a model gave a log-probability that is not finite")
    return whole


def _put_together(rows: Sequence[TokenComparison | None], reasons: Sequence[str | None]) -> RowScores:
    valid = [row for row in rows if row is not None]
    return row_scores(
        [mean(row.divergence) if row else None for row in rows],
        reasons,
        aggregates={**NO_MEANS, **(_figures(join(valid)) if valid else {})},
        columns={
            "tokens": [len(row.divergence) if row else None for row in rows],
            "kl_divergence_max": [float(row.divergence.max()) if row else None for row in rows],
            "top1_agreement": [float(row.same_top.mean()) if row else None for row in rows],
            "perplexity_ratio": [_ratio(row) if row else None for row in rows],
        },
    )


def _ratio(row: TokenComparison) -> float:
    return exponential(mean(row.nll_model - row.nll_baseline))


def _figures(tokens: TokenComparison) -> Mapping[str, float]:
    log_ratios = tokens.nll_model - tokens.nll_baseline
    ratio, same = _ratio(tokens), tokens.same_top.astype(np.float64)
    return {
        **with_error("perplexity_model", *perplexity_with_error(tokens.nll_model)),
        **with_error("perplexity_baseline", *perplexity_with_error(tokens.nll_baseline)),
        **with_error("perplexity_ratio", ratio, ratio * error_of_mean(log_ratios)),
        **with_error("log_ratio", mean(log_ratios), error_of_mean(log_ratios)),
        **with_error("kl_divergence_mean", mean(tokens.divergence), error_of_mean(tokens.divergence)),
        **percentiles("kl_divergence", tokens.divergence),
        **with_error("top1_agreement", mean(same), error_of_mean(same)),
        **_delta_p(tokens),
        "tokens": len(same),
    }


def _delta_p(tokens: TokenComparison) -> Mapping[str, float]:
    """Of the probability of the text's token."""
    change = np.exp(-tokens.nll_model) - np.exp(-tokens.nll_baseline)
    squares = change**2
    rms = float(np.sqrt(mean(squares)))
    return {
        **with_error("delta_p_mean", mean(change), error_of_mean(change)),
        **with_error("delta_p_rms", rms, 0.5 / rms * error_of_mean(squares) if rms else 0.0),
        **percentiles("delta_p", change),
    }

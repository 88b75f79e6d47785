"""How far a model's probabilities are from a baseline's: what quantization, pruning or merging changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.engines import ScoringEngine
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
from mlflow_llm_plugins.metrics.likelihood.same_tokens import encode_alike, refuse_other_tokens
from mlflow_llm_plugins.metrics.likelihood.scoring import progress
from mlflow_llm_plugins.metrics.likelihood.subject import (
    Subject,
    TextColumn,
    check_column,
    choose_column,
    declare_needed,
)
from mlflow_llm_plugins.metrics.likelihood.tokens import START_TOKEN, TokenText
from mlflow_llm_plugins.metrics.likelihood.windows import Windows, WindowSettings
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, row_scores
from mlflow_llm_plugins.metrics.models import ModelHandle

_CONTEXT_LENGTH = 512  # of a window, as llama.cpp's
_DETAILS = (
    "Figures of llama.cpp's perplexity tool with --kl-divergence, over the tokens of all rows, in float64 before the "
    "softmax: divergence = sum of p (ln p - ln q), with p of the baseline; below 0, which only rounding makes it, it "
    "counts as 0. Unlike there, texts are rows of their own and all tokens but a row's first are scored, in "
    "overlapping windows. Standard errors take tokens as independent."
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
    of the change of the probability of the text's token; `tokens`, the `count` of rows, and the `context_length` and
    `stride` of the windows that were used.

    Args:
        baseline: The model that the other one is to resemble, for example the one that was quantized. As for
            `perplexity`: a URI, a loaded model or an engine.
        model: The other one; None: the evaluated model, in the evaluator `llm`.
        texts: The column with the texts: "targets", "predictions" or "inputs". None: the targets where there are any,
            else the predictions. Targets or inputs that were chosen are needed, and go by name.
        context_length: Tokens of a window, at least 2. None: 512, or a model's context where that is shorter.
        stride: Tokens from window to window. None: half the window.
        name: The metric's name, to have several in one evaluation.

    Raises:
        InvalidInputError: A setting is wrong; when it scores: there is no such column or model, or the models have
            different tokens or vocabularies, or a context shorter than `context_length`.
    """
    check_column(texts, "divergence")
    settings = WindowSettings(context_length, stride, _CONTEXT_LENGTH, "divergence")
    reference, subject = ModelHandle(baseline, "divergence(baseline=...)"), Subject(model, "divergence")

    def prepared(evaluated: Any) -> tuple[ScoringEngine, ScoringEngine, Windows]:
        pair = reference.engine(), subject.engine(evaluated)
        windows = settings.windows(*(each.stats().max_context_length for each in pair))
        refuse_other_tokens(*pair)
        return *pair, windows

    def eval_fn(
        predictions: Iterable[Any] | None = None,
        targets: Iterable[Any] | None = None,
        inputs: Iterable[Any] | None = None,
        engine: Any = None,
    ) -> RowScores:
        columns: Mapping[TextColumn, Iterable[Any] | None]
        columns = {"predictions": predictions, "targets": targets, "inputs": inputs}
        cell, cells = choose_column(texts, columns, "divergence")
        baseline, model, windows = prepared(engine)
        encoded, reasons = encode_alike(cells, cell, baseline, model)
        return _put_together(*_compared(baseline, model, encoded, reasons, windows), windows)

    return LLMMetric(
        declare_needed(eval_fn, texts),
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
        prepare=prepared,
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
    with progress(
        "Comparing models", sum(windows.tokens_of(len(text.ids), text.first) for text in texts if text)
    ) as bar:
        for index, text in enumerate(texts):
            row = None
            try:
                row = _compared_text(baseline, model, text, windows, bar) if text else None
            except NotScoredError as reason:
                why[index] = str(reason)
            rows.append(row)
    return rows, why


def _compared_text(
    baseline: ScoringEngine, model: ScoringEngine, text: TokenText, windows: Windows, bar: tqdm[Any]
) -> TokenComparison:
    parts = []
    for window in windows.of(len(text.ids), text.first):
        own, first = text.ids[window.start : window.end], window.first - window.start
        try:  # an engine may refuse at once, or when the first slice is asked for
            parts.append(compare(baseline.logits(own, first), model.logits(own, first), own[first:]))
        except InvalidInputError as error:
            raise NotScoredError(f"a model refuses it: {error}") from error
        bar.update(len(own))
    return _checked(join(parts))


def _checked(tokens: TokenComparison) -> TokenComparison:
    if tokens.flaw is not None:
        raise NotScoredError(tokens.flaw)
    if not all(math.isfinite(exponential(mean(nll))) for nll in (tokens.nll_baseline, tokens.nll_model)):
        raise NotScoredError("a model's perplexity is beyond the numbers that a float can hold")
    return tokens


def _put_together(
    rows: Sequence[TokenComparison | None], reasons: Sequence[str | None], windows: Windows
) -> RowScores:
    valid = [row for row in rows if row is not None]
    return row_scores(
        [mean(row.divergence) if row else None for row in rows],
        reasons,
        aggregates={**NO_MEANS, **({**_figures(join(valid)), **windows.figures()} if valid else {})},
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

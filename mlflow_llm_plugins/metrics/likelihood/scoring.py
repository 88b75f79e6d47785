"""Log-probabilities of the tokens of many texts, window by window, in few calls of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from tqdm import tqdm

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.engines import ScoringEngine
from mlflow_llm_plugins.metrics.likelihood.figures import Numbers
from mlflow_llm_plugins.metrics.likelihood.tokens import TokenText
from mlflow_llm_plugins.metrics.likelihood.windows import Window, Windows

_CALL_TOKENS = 16_384  # of one call of `score`: enough for full batches, little enough for its lists of numbers
_FEW_TOKENS = 20_000  # no progress bar for so few


@dataclass(slots=True)
class _Piece:
    row: int
    window: Window
    ids: list[int]


def progress(description: str, total: int) -> tqdm[NoReturn]:
    """A bar over tokens, on a terminal only, and not for few of them."""
    is_off = True if total <= _FEW_TOKENS else None
    return tqdm(total=total, unit="token", unit_scale=True, desc=description, disable=is_off)


def token_logprobs(
    engine: ScoringEngine, texts: Sequence[TokenText | None], windows: Windows
) -> tuple[list[Numbers | None], list[str | None]]:
    """Score the tokens of each text, from its first one with a score.

    Returns:
        Natural logarithms, float64, a row a text; None for no text and for one that the engine refuses, whose reason
        is in the second list.
    """
    found: list[list[Numbers]] = [[] for _ in texts]
    reasons: list[str | None] = [None] * len(texts)
    total = sum(windows.tokens_of(len(text.ids), text.first) for text in texts if text is not None)
    with progress("Scoring texts", total) as bar:
        for call in _calls(texts, windows):
            for piece, scores in zip(call, _asked(engine, [piece.ids for piece in call]), strict=True):
                if isinstance(scores, InvalidInputError):
                    reasons[piece.row] = f"the model refuses it: {scores}"
                else:
                    own = scores[piece.window.first - piece.window.start - 1 :]
                    found[piece.row].append(np.asarray(own, dtype=np.float64))
            bar.update(sum(len(piece.ids) for piece in call))
    refused = [parts == [] or reason is not None for parts, reason in zip(found, reasons, strict=True)]
    return [None if no else np.concatenate(parts) for no, parts in zip(refused, found, strict=True)], reasons


def _calls(texts: Sequence[TokenText | None], windows: Windows) -> Iterator[list[_Piece]]:
    """Windows of all texts in order, so many that a call has about `_CALL_TOKENS` tokens."""
    call: list[_Piece] = []
    tokens = 0
    for piece in _pieces(texts, windows):
        if call and tokens + len(piece.ids) > _CALL_TOKENS:
            yield call
            call, tokens = [], 0
        call.append(piece)
        tokens += len(piece.ids)
    if call:
        yield call


def _pieces(texts: Sequence[TokenText | None], windows: Windows) -> Iterator[_Piece]:
    for row, text in enumerate(texts):
        if text is not None:
            for window in windows.of(len(text.ids), text.first):
                yield _Piece(row, window, text.ids[window.start : window.end])


def _asked(engine: ScoringEngine, texts: Sequence[list[int]]) -> Sequence[Sequence[float] | InvalidInputError]:
    """Scores, or why there are none: where a call is refused, each text is asked for alone."""
    try:
        return engine.score(texts)
    except InvalidInputError as error:
        if len(texts) == 1:
            return [error]
        return [scores for text in texts for scores in _asked(engine, [text])]

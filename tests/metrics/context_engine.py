"""A small engine behind the seam that metrics see, whose logits depend on every token before, in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import log_softmax
from tokenizers.processors import TemplateProcessing

from mlflow_llm_plugins.errors import InvalidInputError
from tests.models import BOS, VOCAB_SIZE, byte_tokenizer

_DECAY = 0.8  # what a token still says one place later


class ContextEngine:
    """Knows ids below `vocabulary` only, and refuses others as engines do."""

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        seed: int = 0,
        noise: float = 0.0,
        vocabulary: int = VOCAB_SIZE,
        context: int = 64,
        slice_size: int = 7,
    ) -> None:
        self.tokenizer = tokenizer or byte_tokenizer()
        self.calls: list[list[list[int]]] = []  # token ids of each call of `score`
        self._context, self._slice_size, self._vocabulary = context, slice_size, vocabulary
        self._weights = np.random.default_rng(seed).normal(size=(vocabulary, vocabulary))
        self._weights += noise * np.random.default_rng(seed + 1).normal(size=(vocabulary, vocabulary))

    def after(self, ids: Sequence[int]) -> np.ndarray:
        """[length, vocabulary] float32: what follows each token, given those before it."""
        self._check(ids)
        state, rows = np.zeros(self._vocabulary), []
        for token_id in ids:
            state = _DECAY * state + self._weights[token_id]
            rows.append(state)
        return np.array(rows, dtype=np.float32)

    def score(self, texts: Sequence[Any], top_logprobs: int = 0) -> list[list[float]]:
        ids = [list(text) for text in texts]
        self.calls.append(ids)
        return [self._logprobs(one) for one in ids]

    def choose(self, prompts: Sequence[Any], choices: Sequence[Any]) -> list[list[float]]:
        raise NotImplementedError

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[np.ndarray]:
        rows = self.after(token_ids)[first - 1 : -1]
        return (rows[start : start + self._slice_size] for start in range(0, len(rows), self._slice_size))

    def stats(self) -> Any:
        return SimpleNamespace(max_context_length=self._context)

    def _logprobs(self, ids: list[int]) -> list[float]:
        logprobs = log_softmax(self.after(ids).astype(np.float64), axis=1)
        return [float(logprobs[i, token_id]) for i, token_id in enumerate(ids[1:])]

    def _check(self, ids: Sequence[int]) -> None:
        assert 0 < len(ids) <= self._context
        if max(ids) >= self._vocabulary:
            raise InvalidInputError(f"Token id {max(ids)} is outside the model's vocabulary of {self._vocabulary}.")


def starting_tokenizer(*tokens: str) -> Any:
    """The byte tokenizer, with special tokens before every text: the start token, as Llama's has it, or others."""
    tokenizer = byte_tokenizer()
    start = tokens or (BOS,)
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in start]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{' '.join(start)} $A", special_tokens=ids)
    return tokenizer

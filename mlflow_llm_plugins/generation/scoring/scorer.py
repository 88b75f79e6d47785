"""Log-probabilities of given texts and choices, by plain forward passes on the weight-sharing twin."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from mlflow_llm_plugins.generation.architecture import input_device, is_exact, vocabulary_size
from mlflow_llm_plugins.generation.cpu.openmp import own_workers_released
from mlflow_llm_plugins.generation.engine import Alternatives, ChoiceScores, TokenScores
from mlflow_llm_plugins.generation.sampling.rows import top
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.generation.scoring.dynamic_caches import keep_prefixes
from mlflow_llm_plugins.generation.scoring.split_model import split
from mlflow_llm_plugins.generation.scoring.tree_pass import TreePass

_logger = logging.getLogger(__name__)

_BATCH_TOKENS = 2048  # padded tokens of one forward pass
_ROUNDED_TOLERANCE = 0.25  # natural logarithms; 16-bit and quantized weights stay below, a wrong mask does not
_HEAD_POSITIONS = 256  # positions whose logits exist at once: [256, vocab] floats, never [length, vocab]
_PROBE_TOKENS = 16  # of a pass of the probe, so that its small tree needs several


class Scorer:
    """Scores token ids on a model that nothing else runs forward passes on; one call at a time."""

    def __init__(self, model: Any, *, can_branch: bool, max_length: int, max_cached_tokens: int) -> None:
        """Take the model.

        Args:
            model: The twin.
            can_branch: Whether rows can go on from copies of one cache, as with plain attention; this is tried out,
                and where it is not right each choice is scored with its whole prompt.
            max_length: Tokens of the longest text.
            max_cached_tokens: Tokens of the beginnings that are kept between calls of `choose`.
        """
        self._model = model
        self._max_length = max_length
        self._lock = threading.Lock()
        self._parts = split(model)
        self._prefixes = keep_prefixes(max_cached_tokens)
        can_branch = can_branch and "position_ids" in inspect.signature(model.forward).parameters
        self._tree_pass = self._find_tree_pass() if can_branch else None

    @property
    def weight_bytes(self) -> int:
        """What the model's parameters and buffers take in memory."""
        return int(self._model.get_memory_footprint())

    def score(self, texts: Sequence[list[int]], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probability of tokens 2 to n of each text, and the best tokens there; empty for a text of one token."""
        scores = [TokenScores() for _ in texts]
        with own_workers_released(), self._lock, torch.no_grad():
            for rows in batches([len(text) for text in texts]):
                batch = self._score_batch([texts[row] for row in rows], top_logprobs)
                self._prefixes.raise_if_closed()
                for row, of_one in zip(rows, batch, strict=True):
                    scores[row] = of_one
        return scores

    def logits(self, ids: list[int], first: int) -> Iterator[NDArray[np.float32]]:
        """The logits that predict the tokens `first` to the last; see `GenerationEngine.logits`.

        The lock is held while something is computed, never while the caller has a slice: two of these may be read in
        turns, also by one thread on one model.
        """
        if first >= len(ids):
            return
        row, mask = self._right_pad([ids])
        wanted = mask[:, 1:].bool()
        wanted[:, : first - 1] = False
        slices = self._logits(row, mask, wanted)
        while (part := self._next(slices)) is not None:
            yield part
            del part  # or two would exist while the next one is computed

    def choose(self, rows: Sequence[ChoiceRow]) -> list[ChoiceScores]:
        """Log-probability of each tail after its stem; what stems share is computed once."""
        if not rows:
            return []
        if self._tree_pass is None:
            return self._choose_whole(rows)
        with own_workers_released(), self._lock, torch.no_grad():
            return self._tree_pass.choose(rows)

    def close(self) -> None:
        """Free the kept beginnings; later calls keep none."""
        self._prefixes.close()

    def _score_batch(self, texts: Sequence[list[int]], top_logprobs: int) -> Iterator[TokenScores]:
        ids, mask = self._right_pad(texts)
        scored = mask[:, 1:].bool()
        slices = zip(self._logits(ids, mask, scored), ids[:, 1:][scored].split(_HEAD_POSITIONS), strict=True)
        places = chain.from_iterable(_scores(logits, targets, top_logprobs) for logits, targets in slices)
        for text in texts:
            own = list(islice(places, len(text) - 1))
            yield TokenScores([score for score, _ in own], [best for _, best in own] if top_logprobs else ())

    def _logits(self, ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> Iterator[torch.Tensor]:
        """[`_HEAD_POSITIONS` or less, vocab] of the places before the scored ones, row by row."""
        places = zip(*(indices.split(_HEAD_POSITIONS) for indices in scored.nonzero(as_tuple=True)), strict=True)
        if self._parts is None:  # then the logits of all places exist, but once
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            yield from (logits[place] for place in places)
            return
        hidden = self._parts.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        for place in places:
            yield self._parts.head(hidden[place]).to(ids.device)

    def _next(self, slices: Iterator[torch.Tensor]) -> NDArray[np.float32] | None:
        with own_workers_released(), self._lock, torch.no_grad():
            self._prefixes.raise_if_closed()
            part = next(slices, None)
            return None if part is None else part.float().cpu().numpy()

    def _choose_whole(self, rows: Sequence[ChoiceRow]) -> list[ChoiceScores]:
        whole = [(row.stem + tail, len(tail)) for row in rows for tail in row.tails]
        scores = iter(self.score([ids for ids, _ in whole]))
        sums = iter([sum(next(scores)[-length:]) for _, length in whole])
        return [ChoiceScores(next(sums) for _ in row.tails) for row in rows]

    def _right_pad(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, [rows, longest]; to the right, where causal models never look back at it."""
        tensors = [torch.tensor(row) for row in rows]
        ids = pad_sequence(tensors, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
        return ids.to(input_device(self._model)), mask.to(input_device(self._model))

    def _find_tree_pass(self) -> TreePass | None:
        """The way to share beginnings that gives what whole texts give, if one does."""
        ways = (can_mask for can_mask in (True, False) if self._is_right(can_mask))
        return next((TreePass(self._model, self._prefixes, can_mask=can_mask) for can_mask in ways), None)

    def _is_right(self, can_mask: bool) -> bool:
        """Try it on a small tree with all kinds of passes, without and with a kept beginning."""
        rows = _probe_rows(vocabulary_size(self._model), self._max_length)
        tree_pass = TreePass(
            self._model, keep_prefixes(self._max_length), can_mask=can_mask, pass_tokens=_PROBE_TOKENS
        )
        try:
            with self._lock, torch.no_grad():
                shared = [tree_pass.choose(rows), tree_pass.choose(rows)]
        except Exception as error:  # whatever an architecture has against masks and caches of others
            _logger.debug("%s cannot branch its cache: %s", type(self._model).__name__, error)
            return False
        tolerance = 1e-3 if is_exact(self._model) else _ROUNDED_TOLERANCE
        whole = self._choose_whole(rows)
        return all(_difference(call, whole) < tolerance for call in shared)


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows, grouped by length so that a group has at most `_BATCH_TOKENS` padded tokens."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[index] > _BATCH_TOKENS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _probe_rows(vocab: int, max_length: int) -> list[ChoiceRow]:
    """Two prompts that part late, and choices that part late."""
    stem = [(7 * i + 3) % vocab for i in range(min(44, max_length - 4))]
    tails = [[1 % vocab], [2 % vocab, 3 % vocab], [2 % vocab, 4 % vocab, 5 % vocab]]
    return [ChoiceRow(stem, tails), ChoiceRow([*stem[: max(1, len(stem) - 8)], 5 % vocab], tails)]


def _difference(some: Sequence[ChoiceScores], others: Sequence[ChoiceScores]) -> float:
    """The largest difference; infinite where a score is no number."""
    pairs = zip([x for row in some for x in row], [x for row in others for x in row], strict=True)
    differences = [abs(one - other) for one, other in pairs]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


def _scores(logits: torch.Tensor, targets: torch.Tensor, top_logprobs: int) -> Iterator[tuple[float, Alternatives]]:
    """The log-probability of each target, and the best tokens with theirs, under [n, vocab] logits, in float32."""
    logits = logits.float()
    mass = logits.logsumexp(-1, keepdim=True)
    scores = (logits.gather(1, targets[:, None]) - mass)[:, 0].tolist()
    if not (top_logprobs and scores):
        return zip(scores, repeat(()))
    values, ids = top(logits, top_logprobs)
    best = zip(ids.tolist(), (values - mass).tolist(), strict=True)
    return zip(scores, (_possible(*place) for place in best), strict=True)


def _possible(ids: Sequence[int], logprobs: Sequence[float]) -> Alternatives:
    pairs = zip(ids, logprobs, strict=True)
    return tuple((token_id, logprob) for token_id, logprob in pairs if logprob > -math.inf)

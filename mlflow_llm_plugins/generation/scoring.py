"""Log-probabilities of given texts and choices, by plain forward passes on the weight-sharing twin."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from mlflow_llm_plugins.generation.architecture import input_device, is_exact

_BATCH_TOKENS = 2048  # padded tokens of one forward pass
_ROUNDED_TOLERANCE = 0.25  # natural logarithms; 16-bit and quantized weights stay below, a wrong mask does not
_HEAD_POSITIONS = 256  # positions whose logits exist at once: [256, vocab] floats, never [length, vocab]


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """One prompt and its choices, split where all of them still agree."""

    stem: list[int]
    tails: list[list[int]]  # what is scored, one for each choice, never empty


class Scorer:
    """Scores token ids on a model that nothing else runs forward passes on; one call at a time."""

    def __init__(self, model: Any, *, can_branch: bool, max_length: int) -> None:
        """Take the model.

        Args:
            model: The twin.
            can_branch: Whether its cache can be copied and padded, as with plain attention; this is tried out, and
                where it is not right each choice is scored with its whole prompt.
            max_length: Tokens of the longest text.
        """
        self._model = model
        self._max_length = max_length
        self._lock = threading.Lock()
        self._sliced_head = self._find_sliced_head()
        self._can_branch = can_branch and "position_ids" in inspect.signature(model.forward).parameters
        self._can_branch = self._can_branch and self._branches_right()

    def score(self, texts: Sequence[list[int]]) -> list[list[float]]:
        """Log-probability of tokens 2 to n of each text; an empty list for a text of one token."""
        scores: list[list[float]] = [[] for _ in texts]
        with self._lock, torch.no_grad():
            for rows in batches([len(text) for text in texts]):
                for row, logprobs in zip(rows, self._score_batch([texts[row] for row in rows]), strict=True):
                    scores[row] = logprobs
        return scores

    def choose(self, rows: Sequence[ChoiceRow]) -> list[list[float]]:
        """Log-probability of each tail after its stem; the stems' common beginning is computed once."""
        if not rows:
            return []
        return self._choose_shared(rows) if self._can_branch else self._choose_whole(rows)

    # -- whole texts --------------------------------------------------------------------------------------

    def _score_batch(self, texts: Sequence[list[int]]) -> Iterator[list[float]]:
        ids, mask = self._right_pad(texts)
        targets = ids[:, 1:][mask[:, 1:].bool()]  # [scored], row by row
        logprobs = self._target_logprobs(ids, mask, targets)
        for part in logprobs.split([len(text) - 1 for text in texts]):
            yield part.tolist()

    def _target_logprobs(self, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[scored] log-probabilities of the targets, each read at the position before it."""
        before = mask[:, 1:].bool()
        if self._sliced_head is None:
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            return _logprobs(logits[:, :-1][before], targets)
        base, head = self._sliced_head
        hidden = base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        hidden = hidden[:, :-1][before]  # [scored, hidden]
        slices = zip(hidden.split(_HEAD_POSITIONS), targets.split(_HEAD_POSITIONS), strict=True)
        parts = [_logprobs(head(rows), wanted) for rows, wanted in slices]
        return torch.cat(parts) if parts else torch.empty(0)

    def _choose_whole(self, rows: Sequence[ChoiceRow]) -> list[list[float]]:
        whole = [(row.stem + tail, len(tail)) for row in rows for tail in row.tails]
        scores = iter(self.score([ids for ids, _ in whole]))
        sums = iter([sum(next(scores)[-length:]) for _, length in whole])
        return [[next(sums) for _ in row.tails] for row in rows]

    # -- shared prefix ------------------------------------------------------------------------------------

    def _choose_shared(self, rows: Sequence[ChoiceRow]) -> list[list[float]]:
        with self._lock, torch.no_grad():
            prefix = common_prefix([row.stem for row in rows])[: min(len(row.stem) for row in rows) - 1]
            cache = self._prefill(prefix)
            results: list[list[float]] = [[] for _ in rows]
            # Every row of a batch gets its own copy of the prefix, so its tokens count as well.
            for batch in batches([len(row.stem) for row in rows]):
                chosen = self._choose_batch([rows[i] for i in batch], len(prefix), copy.deepcopy(cache))
                for index, logprobs in zip(batch, chosen, strict=True):
                    results[index] = logprobs
            return results

    def _prefill(self, prefix: list[int]) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        if prefix:
            ids = torch.tensor([prefix], device=input_device(self._model))
            self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _choose_batch(self, rows: Sequence[ChoiceRow], shared: int, cache: DynamicCache) -> list[list[float]]:
        own, own_mask = self._right_pad([row.stem[shared:] for row in rows])
        if shared:
            cache.batch_repeat_interleave(len(rows))
        mask = torch.cat([own_mask.new_ones(len(rows), shared), own_mask], dim=1)
        last = own_mask.sum(1) - 1  # column of each row's last real token
        columns, where = last.unique(return_inverse=True)
        logits = self._forward(own, mask, shared, cache, columns)
        first = logits[torch.arange(len(rows), device=own.device), where].float().log_softmax(-1)  # [rows, vocab]
        sums = [[float(first[r, tail[0]]) for tail in row.tails] for r, row in enumerate(rows)]
        longer = [(r, c) for r, row in enumerate(rows) for c, tail in enumerate(row.tails) if len(tail) > 1]
        for some in batches([mask.shape[1] + len(rows[r].tails[c]) for r, c in longer]):
            self._add_later_tokens(sums, rows, [longer[i] for i in some], mask, shared + last + 1, cache)
        return sums

    def _add_later_tokens(
        self,
        sums: list[list[float]],
        rows: Sequence[ChoiceRow],
        longer: Sequence[tuple[int, int]],
        mask: torch.Tensor,
        lengths: torch.Tensor,
        cache: DynamicCache,
    ) -> None:
        """Add the second and later tokens of the choices `longer`, (row, choice), to `sums`, in place."""
        tails = [rows[r].tails[c] for r, c in longer]
        parents = torch.tensor([r for r, _ in longer], device=mask.device)
        branches = copy.deepcopy(cache)
        branches.batch_select_indices(parents)
        ids, tail_mask = self._right_pad([tail[:-1] for tail in tails])
        logits = self._forward(ids, torch.cat([mask[parents], tail_mask], dim=1), lengths[parents], branches, None)
        targets = torch.tensor([token for tail in tails for token in tail[1:]], device=ids.device)
        parts = _logprobs(logits[tail_mask.bool()], targets).split([len(tail) - 1 for tail in tails])
        for (r, c), part in zip(longer, parts, strict=True):
            sums[r][c] += float(part.double().sum())

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        start: int | torch.Tensor,
        cache: DynamicCache,
        columns: torch.Tensor | None,
    ) -> torch.Tensor:
        """Logits of `ids`, the first of which stands at position `start` ([rows], or one for all)."""
        first = start[:, None] if isinstance(start, torch.Tensor) else start
        positions = (first + torch.arange(ids.shape[1], device=ids.device)).expand_as(ids)
        positions = positions.clamp(max=self._max_length - 1)  # padding may reach beyond a table of positions
        logits: torch.Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=0 if columns is None else columns,
        ).logits
        return logits

    def _right_pad(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask, [rows, longest]; to the right, where causal models never look back at it."""
        tensors = [torch.tensor(row) for row in rows]
        ids = pad_sequence(tensors, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
        return ids.to(input_device(self._model)), mask.to(input_device(self._model))

    def _branches_right(self) -> bool:
        """Whether copied and padded caches give what whole texts give: local attention counts the padding too."""
        vocab = int(self._model.get_input_embeddings().weight.shape[0])
        stem = [(7 * i + 3) % vocab for i in range(min(40, self._max_length - 4))]
        tails = [[1 % vocab], [2 % vocab, 3 % vocab]]
        rows = [ChoiceRow(stem, tails), ChoiceRow([*stem[: len(stem) // 2], 5 % vocab], tails)]
        tolerance = 1e-3 if is_exact(self._model) else _ROUNDED_TOLERANCE
        return all(
            abs(got - expected) < tolerance
            for shared, whole in zip(self._choose_shared(rows), self._choose_whole(rows), strict=True)
            for got, expected in zip(shared, whole, strict=True)
        )

    def _find_sliced_head(self) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]] | None:
        """The body and the output layer, if one after the other they are the whole model.

        Some models scale or cap the logits behind the output layer; asking beats a list of their names.
        """
        base, head = self._model.base_model, self._model.get_output_embeddings()
        if head is None or base is self._model:
            return None
        vocab = self._model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(4, device=input_device(self._model))[None] % vocab
        with torch.no_grad():
            hidden = getattr(base(input_ids=ids, use_cache=False), "last_hidden_state", None)
            whole = self._model(input_ids=ids, use_cache=False).logits
        if hidden is None or not torch.allclose(head(hidden), whole, atol=1e-6):
            return None
        return base, head


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


def common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """The longest beginning that all sequences share."""
    lowest, highest = min(sequences), max(sequences)  # what these two share, all share
    length = 0
    while length < min(len(lowest), len(highest)) and lowest[length] == highest[length]:
        length += 1
    return lowest[:length]


def _logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[n] log-probability of each target under [n, vocab] logits, in float32."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)

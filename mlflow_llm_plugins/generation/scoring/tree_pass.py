"""Forward passes over a tree of prompts and choices: every token once, without padding, the prefix in memory once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from mlflow_llm_plugins.generation.architecture import input_device
from mlflow_llm_plugins.generation.engine import ChoiceScores
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow, ChoiceTree, FlatSubtree, Subtree
from mlflow_llm_plugins.generation.scoring.dynamic_caches import branch
from mlflow_llm_plugins.generation.scoring.prefix_caches import PrefixCaches

PASS_TOKENS = 512  # of one forward pass; its mask is [tokens, prefix + tokens]
_HEAD_POSITIONS = 128  # positions whose logits exist as float32 at once


class TreePass:
    """Scores the choices of rows; nothing else may run forward passes on the model meanwhile.

    Subtrees up to the size of a pass are laid side by side in one row; a mask lets a token see the prefix, what
    precedes it in its own sequence, and itself. The beginning of a larger one is computed first, then its branches.
    """

    def __init__(
        self, model: Any, prefixes: PrefixCaches[DynamicCache], *, can_mask: bool, pass_tokens: int = PASS_TOKENS
    ) -> None:
        """Take the model.

        Args:
            model: Its cache keeps all keys of all layers.
            prefixes: Beginnings of earlier calls.
            can_mask: Whether the model follows a mask of its own shape; otherwise each branch is a pass of its own.
            pass_tokens: Tokens of one forward pass.
        """
        self._model = model
        self._prefixes = prefixes
        self._can_mask = can_mask
        self._pass_tokens = pass_tokens

    def choose(self, rows: Sequence[ChoiceRow]) -> list[ChoiceScores]:
        """Log-probability of each tail after its stem."""
        tree = ChoiceTree(rows)
        kept = self._prefixes.longest(tree.beginning)
        cache = DynamicCache(config=self._model.config) if kept is None else kept
        parts: list[list[float]] = [[] for row in rows for _ in row.tails]
        self._walk(tree, cache, parts)
        sums = [math.fsum(part) for part in parts]
        if not any(math.isnan(logprob) for logprob in sums):
            self._prefixes.keep(tree.beginning, cache)
        left = iter(sums)
        return [ChoiceScores(next(left) for _ in row.tails) for row in rows]

    def _walk(self, tree: ChoiceTree, cache: DynamicCache, parts: list[list[float]]) -> None:
        """Compute the whole tree and collect log-probabilities by choice; `cache` gets its beginning."""
        waiting = [(tree.whole, cache)]
        while waiting:
            self._prefixes.raise_if_closed()
            subtree, cache = waiting.pop()
            if self._fits(tree, subtree, cache.get_seq_length()):
                self._compute(tree, subtree, cache, parts)
                continue
            self._compute_beginning(tree, subtree, cache, parts)
            depth = cache.get_seq_length()
            # The largest one last, when nothing else needs this cache any more.
            branches = sorted(self._branches(tree, subtree, depth), key=lambda part: -tree.size(part, depth))
            waiting += [(part, branch(cache)) for part in branches]

    def _fits(self, tree: ChoiceTree, subtree: Subtree, depth: int) -> bool:
        is_chain = subtree.end - subtree.first == 1
        return (self._can_mask or is_chain) and tree.size(subtree, depth) <= self._pass_tokens

    def _branches(self, tree: ChoiceTree, subtree: Subtree, depth: int) -> Iterator[Subtree]:
        """Its children, neighbours joined as far as they fit into one pass."""
        joined: Subtree | None = None
        for child in tree.children(subtree):
            wider = Subtree(joined.first if joined else child.first, child.end)
            if joined and not self._fits(tree, wider, depth):
                yield joined
                wider = child
            joined = wider
        if joined:
            yield joined

    def _compute_beginning(
        self, tree: ChoiceTree, subtree: Subtree, cache: DynamicCache, parts: list[list[float]]
    ) -> None:
        """Extend the cache to where the subtree's sequences part."""
        end = tree.common(subtree)
        while (depth := cache.get_seq_length()) < end:
            flat = tree.flat(subtree, depth, min(end, depth + self._pass_tokens))
            _collect(parts, flat, self._logprobs(flat, cache))

    def _compute(self, tree: ChoiceTree, subtree: Subtree, cache: DynamicCache, parts: list[list[float]]) -> None:
        """One pass over all that the cache does not have; NaN of one sequence would reach the others through it."""
        depth, before = cache.get_seq_length(), branch(cache)
        flat = tree.flat(subtree, depth)
        logprobs = self._logprobs(flat, cache)
        if len(flat.segments) == 1 or not any(math.isnan(logprob) for logprob in logprobs):
            _collect(parts, flat, logprobs)
            return
        for index in range(subtree.first, subtree.end):
            flat = tree.flat(Subtree(index, index + 1), depth)
            _collect(parts, flat, self._logprobs(flat, branch(before)))

    def _logprobs(self, flat: FlatSubtree, cache: DynamicCache) -> list[float]:
        """Of the targets; the cache gets all tokens."""
        device = input_device(self._model)
        columns, where = torch.tensor(flat.columns, dtype=torch.long).unique(return_inverse=True)
        logits = self._model(
            input_ids=torch.tensor([flat.ids], device=device),
            attention_mask=self._mask(flat, cache.get_seq_length()),
            position_ids=torch.tensor([flat.positions], device=device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=columns.to(device) if len(columns) else 1,
        ).logits[0]  # [columns, vocab]
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(_HEAD_POSITIONS)])
        where, targets = where.to(logits.device), torch.tensor(flat.targets, dtype=torch.long, device=logits.device)
        logprobs: list[float] = (logits[where, targets].float() - norms[where]).tolist()
        return logprobs

    def _mask(self, flat: FlatSubtree, depth: int) -> torch.Tensor:
        """[1, 1, tokens, depth + tokens], 0 where a token looks; all ones for a chain, which is plainly causal."""
        tokens, device = len(flat.ids), input_device(self._model)
        if len(flat.segments) == 1:
            return torch.ones(1, depth + tokens, dtype=torch.long, device=device)
        hidden = torch.ones(tokens, tokens, dtype=torch.bool)
        for segment in flat.segments:
            own = slice(segment.start, segment.end)
            hidden[own, torch.tensor(segment.before, dtype=torch.long)] = False
            hidden[own, own] = hidden[own, own].triu(1)
        # added to scores by some kernels, where a boolean would be taken for ones and zeros
        mask = torch.zeros(tokens, depth + tokens, dtype=self._model.dtype)
        mask[:, depth:].masked_fill_(hidden, torch.finfo(mask.dtype).min)
        return mask[None, None].to(device)


def _collect(parts: list[list[float]], flat: FlatSubtree, logprobs: list[float]) -> None:
    for choice, logprob in zip(flat.choices, logprobs, strict=True):
        parts[choice].append(logprob)

"""What changes the logits of one request before its token is picked: biases, penalties, bans, processors of its own.

Ours write in place, and only where something changes; a pass over the vocabulary for each row would cost more than
all the picking. transformers' penalties look at tokens that were there before, so they get the logits of these alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation.requests import GenerationRequest


class History:
    """The tokens of a prompt and its answer so far."""

    def __init__(self, prompt_ids: Sequence[int], longest_answer: int) -> None:
        """Begin with the prompt; room for `longest_answer` tokens more."""
        self._place_of: dict[int, int] = {}  # in `distinct`, in the order of first appearance
        places = [self._place_of.setdefault(token_id, len(self._place_of)) for token_id in prompt_ids]
        room = len(prompt_ids) + longest_answer
        self._ids = _row(prompt_ids, room)
        self._places = _row(places, room)
        self._distinct = _row(list(self._place_of), room)
        self._length = len(prompt_ids)
        self.answer: Counter[int] = Counter()  # how often the answer has each token

    def __len__(self) -> int:
        """Tokens of prompt and answer."""
        return self._length

    @property
    def ids(self) -> torch.Tensor:
        """[1, length] int64."""
        return self._ids[:, : self._length]

    @property
    def distinct(self) -> torch.Tensor:
        """[distinct] int64, each token once."""
        return self._distinct[0, : len(self._place_of)]

    @property
    def places(self) -> torch.Tensor:
        """[1, length] int64: for each token its place in `distinct`."""
        return self._places[:, : self._length]

    def append(self, token_id: int) -> None:
        """One more token of the answer; nothing beyond the room, where a step comes before the end is seen."""
        self.answer[token_id] += 1
        if self._length == self._ids.shape[1]:
            return
        place = self._place_of.setdefault(token_id, len(self._place_of))
        self._distinct[0, place] = token_id
        self._places[0, self._length] = place
        self._ids[0, self._length] = token_id
        self._length += 1


def _row(values: Sequence[int], room: int) -> torch.Tensor:
    """[1, room] int64, with zeros behind the values."""
    row = torch.zeros((1, room), dtype=torch.long)
    row[0, : len(values)] = torch.tensor(values, dtype=torch.long)
    return row


class Processor(Protocol):
    """Changes the logits of a request."""

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        """Write into `scores`, [vocab] float32.

        Raises:
            GenerationError: It cannot be done.
        """


def processors_of(options: GenerationRequest, prompt_tokens: int, end_token_ids: frozenset[int]) -> list[Processor]:
    """Those that a request asks for, in order."""
    processors: list[Processor] = []
    if options.logit_bias:
        processors.append(_Bias(options.logit_bias))
    if options.repetition_penalty != 1:
        processors.append(_OnTheHistory(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty))))
    if options.frequency_penalty or options.presence_penalty:
        processors.append(_CountPenalty(options.frequency_penalty, options.presence_penalty))
    if options.no_repeat_ngram_size:
        processors.append(_OnTheHistory(NoRepeatNGramLogitsProcessor(int(options.no_repeat_ngram_size))))
    if options.min_new_tokens and end_token_ids:
        processors.append(_NoEndBefore(prompt_tokens + options.min_new_tokens, end_token_ids))
    return [*processors, *map(_Foreign, options.logits_processors)]


class _Bias:
    """OpenAI's `logit_bias`."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._ids, self._values = torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=torch.float32)
        self._highest = max(bias)

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        if self._highest >= len(scores):
            raise GenerationError(f"logit_bias names token {self._highest}, but the model has {len(scores)} logits.")
        scores.index_add_(0, self._ids.to(scores.device), self._values.to(scores))


class _CountPenalty:
    """OpenAI's `frequency_penalty` and `presence_penalty`, which count the answer only."""

    def __init__(self, frequency: float, presence: float) -> None:
        self._frequency, self._presence = frequency, presence

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        ids = torch.tensor(list(history.answer), dtype=torch.long, device=scores.device)
        counts = torch.tensor(list(history.answer.values()), dtype=scores.dtype, device=scores.device)
        scores.index_add_(0, ids, -(self._presence + self._frequency * counts))


class _NoEndBefore:
    """No end token while prompt and answer have fewer than `length` tokens."""

    def __init__(self, length: int, end_token_ids: Iterable[int]) -> None:
        self._length, self._ids = length, sorted(end_token_ids)

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        if len(history) < self._length:
            scores[[token_id for token_id in self._ids if 0 <= token_id < len(scores)]] = -torch.inf


class _OnTheHistory:
    """One of transformers' that changes, and looks at, the logits of tokens of the history and no others."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        distinct, places = history.distinct.to(scores.device), history.places.to(scores.device)
        # an embedding may have rows, such as that of an image's token, that the head has not
        changed = self._processor(places, scores[distinct.clamp(max=len(scores) - 1)][None])[0]
        inside = distinct < len(scores)
        scores[distinct[inside]] = changed[inside]


class _Foreign:
    """A processor of the request's own, with the interface of transformers'; it may write into what it gets."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, history: History, scores: torch.Tensor) -> None:
        changed = self._processor(history.ids.to(scores.device), scores[None])
        if changed.shape != (1, *scores.shape):
            raise GenerationError(f"A logits processor must return scores of shape {(1, *scores.shape)}.")
        scores.copy_(changed[0])

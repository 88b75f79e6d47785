"""Log-probabilities of given texts and choices by plain forward passes on an IR, beside the pipeline that generates.

Never by the pipeline's own echo, which is silently wrong beside running requests and kept prefixes (openvino-genai
2026.4).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.generation.engine import ChoiceScores, TokenScores
from mlflow_llm_plugins.generation.openvino.ir_files import WEIGHTS_FILE
from mlflow_llm_plugins.generation.openvino.scoring.forward import (
    Answer,
    ForwardModel,
    KeysAndValues,
    Question,
    Reading,
)
from mlflow_llm_plugins.generation.openvino.scoring.tree_walk import Readout, TreeWalk
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.generation.scoring.prefix_caches import PrefixCaches

_PASS_TOKENS = 256  # of one forward pass, and the most places whose logits exist at once
_FEWEST_PASS_TOKENS = 64
_LOGITS_OF_A_PASS = 2**24  # 64 MiB as float32, which exist up to three times
_NOTHING = Question()
_STATE_TOKENS = 4096  # whose keys and values exist at once, where no text is longer


class OpenVINOScorer:
    """Scores token ids on a compiled model of its own; one call computes at a time.

    The model is compiled at the first call, which takes about half a second for 40M parameters, and its weights then
    take `weight_bytes` beside those of the pipeline. A call needs besides: keys and values of at most 4096 tokens, or
    of the longest text, and of the kept beginnings (as float32); the logits of at most 256 places, at most three
    times, with a vocabulary of 150,000 about 200 MB.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, Any],
        *,
        max_length: int,
        max_cached_tokens: int,
    ) -> None:
        """Load nothing yet.

        Args:
            folder: Of the IR: openvino_model.xml and .bin.
            properties: Of the library's CPU device.
            max_length: Tokens of the longest text.
            max_cached_tokens: Tokens of the beginnings that are kept between calls of `choose`.
        """
        self._folder = folder
        self._weight_bytes = (folder / WEIGHTS_FILE).stat().st_size
        self._properties = {**properties, "NUM_STREAMS": 1}  # because one pass runs at a time
        self._max_state_tokens = max(_STATE_TOKENS, max_length)
        self._lock = threading.Lock()
        self._prefixes = PrefixCaches(max_cached_tokens, KeysAndValues.first, KeysAndValues.copy)
        self._no_prefixes = PrefixCaches(0, KeysAndValues.first, KeysAndValues.copy)
        self._model: ForwardModel | None = None

    @property
    def weight_bytes(self) -> int:
        """The size of the file of the weights."""
        return self._weight_bytes

    def score(self, texts: Sequence[list[int]], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probability of tokens 2 to n of each text, and the best tokens there; empty for a text of one token."""
        rows = [ChoiceRow(text[:1], [text[1:]]) for text in texts if len(text) > 1]
        readout = self._read(rows, self._no_prefixes, top_logprobs)
        scores = zip(readout.logprobs, readout.alternatives, strict=True)
        return [TokenScores(*next(scores)) if len(text) > 1 else TokenScores() for text in texts]

    def choose(self, rows: Sequence[ChoiceRow]) -> list[ChoiceScores]:
        """Log-probability of each tail after its stem; what stems share is computed once."""
        logprobs = iter(self._read(rows, self._prefixes).logprobs)
        return [ChoiceScores(math.fsum(next(logprobs)) for _ in row.tails) for row in rows]

    def logits(self, ids: list[int], first: int) -> Iterator[NDArray[np.float32]]:
        """The logits that predict the tokens `first` to the last; see `GenerationEngine.logits`.

        The lock is held while something is computed, never while the caller has a slice: two of these may be read in
        turns, each on keys and values of its own. With a wide vocabulary a slice has fewer than 256 places.
        """
        if first >= len(ids):
            return
        with self._lock:
            model = self._ready()
            reading, width = model.begin(), _pass_tokens(model)
        for start in range(0, first - 1, width):
            self._pass(reading, ids[start : min(start + width, first - 1)], _NOTHING)
        for start in range(first - 1, len(ids) - 1, width):
            tokens = ids[start : min(start + width, len(ids) - 1)]
            answer = self._pass(reading, tokens, Question(range(len(tokens)), vocabulary="logits"))
            if answer.vocabulary is not None:
                yield answer.vocabulary

    def close(self) -> None:
        """Free the model and the kept beginnings; waits for the pass of a call that runs, which stops after it."""
        self._prefixes.close()
        with self._lock:
            self._model = None

    def _read(
        self, rows: Sequence[ChoiceRow], prefixes: PrefixCaches[KeysAndValues], top_logprobs: int = 0
    ) -> Readout:
        if not rows:
            return Readout(0)
        with self._lock:
            model = self._ready()
            walk = TreeWalk(model, prefixes, pass_tokens=_pass_tokens(model), max_state_tokens=self._max_state_tokens)
            return walk.read(rows, top_logprobs)

    def _pass(self, reading: Reading, tokens: Sequence[int], question: Question) -> Answer:
        with self._lock:
            return reading.read([tokens], question)

    def _ready(self) -> ForwardModel:
        """The compiled model; the caller has the lock."""
        self._prefixes.raise_if_closed()
        if self._model is None:
            self._model = ForwardModel(self._folder, self._properties, self._prefixes.raise_if_closed)
        return self._model


def _pass_tokens(model: ForwardModel) -> int:
    return max(_FEWEST_PASS_TOKENS, min(_PASS_TOKENS, _LOGITS_OF_A_PASS // model.vocabulary_size))

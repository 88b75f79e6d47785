"""The compiled model, and texts that it reads: each reading has keys and values of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import CheckpointError, GenerationError
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE
from mlflow_llm_plugins.generation.openvino.library_errors import library_reason
from mlflow_llm_plugins.generation.openvino.scoring import graph
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused

_NEEDED = frozenset({"input_ids", "beam_idx"})
_KNOWN = _NEEDED | {"attention_mask", "position_ids"}  # some architectures have no use for the others


@dataclass(frozen=True, slots=True)
class KeysAndValues:
    """Of one text, as the library hands them out: float32, [1, heads, tokens, width] for each state of the model."""

    states: tuple[NDArray[np.float32], ...]

    @property
    def tokens(self) -> int:
        """Tokens that were read."""
        return int(self.states[0].shape[2])

    def first(self, tokens: int) -> KeysAndValues:
        """Those of the first tokens; the memory is shared."""
        return KeysAndValues(tuple(state[:, :, :tokens] for state in self.states))

    def copy(self) -> KeysAndValues:
        """The same in memory of its own."""
        return KeysAndValues(tuple(state.copy() for state in self.states))


@dataclass(frozen=True, slots=True)
class Question:
    """What is wanted of the tokens that are read next."""

    places: Sequence[int] = ()  # row * tokens + column, of tokens whose successor is predicted
    picks: Sequence[tuple[int, int]] = ()  # index into `places` and token id
    vocabulary: Literal["logits", "logprobs"] | None = None  # of all places, for the whole vocabulary


@dataclass(frozen=True, slots=True)
class Answer:
    """Valid until the next tokens are read."""

    picked: list[float]  # log-probabilities
    vocabulary: NDArray[np.float32] | None  # [places, vocabulary]


_NO_QUESTION = Question()


class ForwardModel:
    """One compiled model for any number of readings, which share its weights and its buffers.

    Not thread safe: one reading reads at a time.
    """

    def __init__(self, folder: Path, properties: Mapping[str, Any], before_pass: Callable[[], None]) -> None:
        """Read and compile the IR; takes about half a second for 40M parameters.

        Args:
            folder: Has openvino_model.xml and .bin.
            properties: Of the library's CPU device.
            before_pass: Called before each forward pass; may raise.

        Raises:
            CheckpointError: The library cannot run it, or it is not a stateful causal language model.
        """
        self._before_pass = before_pass
        with telemetry_refused():
            import openvino
        try:
            core = openvino.Core()
            model = core.read_model(folder / MODEL_FILE)
            _refuse_unknown_inputs(folder, {port.any_name for port in model.inputs})
            self._inputs = frozenset(port.any_name for port in model.inputs)
            graph.answer_for_places(model)
            self.vocabulary_size = graph.vocabulary_size(model)
            with signal_stack_kept():
                self._compiled = core.compile_model(model, "CPU", dict(properties))
        except RuntimeError as error:
            raise CheckpointError(f"{folder} cannot be compiled for scoring: {library_reason(error)}") from error

    def begin(self, begun: KeysAndValues | None = None) -> Reading:
        """A text that is read from its first token, or from behind those of which `begun` has keys and values."""
        return Reading(self._compiled.create_infer_request(), self._inputs, self._before_pass, begun)


class Reading:
    """Rows of equally many tokens that were read."""

    def __init__(
        self, request: Any, inputs: frozenset[str], before_pass: Callable[[], None], begun: KeysAndValues | None
    ) -> None:
        """Take an inference request that nothing else uses; see `ForwardModel.begin`."""
        self._request = request
        self._inputs = inputs
        self._before_pass = before_pass
        self._rows = 1
        self.depth = 0  # tokens that were read
        if begun is not None:
            self._take_over(begun)

    def read(
        self, ids: Sequence[Sequence[int]], question: Question = _NO_QUESTION, parents: Sequence[int] | None = None
    ) -> Answer:
        """One forward pass; lets other Python threads run meanwhile.

        Args:
            ids: [rows, tokens], what comes next.
            question: What is wanted of these tokens.
            parents: For each row the row that it goes on from, where that is not the row itself.

        Raises:
            GenerationError: The library failed; nothing more can be read here.
        """
        self._before_pass()
        tokens = np.array(ids, np.int64)
        self._rows = len(tokens) if parents is not None or self.depth == 0 else self._rows
        every_place = np.arange(len(question.places), dtype=np.int64)
        nothing = every_place[:0]
        inputs = {
            **self._contexts(tokens),
            "beam_idx": np.arange(self._rows, dtype=np.int32) if parents is None else np.array(parents, np.int32),
            graph.PLACES: np.array(question.places, np.int64),
            graph.PICKS: np.array(question.picks, np.int64).reshape(-1, 2),
            graph.LOGIT_PLACES: every_place if question.vocabulary == "logits" else nothing,
            graph.LOGPROB_PLACES: every_place if question.vocabulary == "logprobs" else nothing,
        }
        with _explained():
            outputs = self._request.infer(inputs, share_inputs=True, share_outputs=True)
        self.depth += tokens.shape[1]
        wide = {"logits": graph.LOGITS, "logprobs": graph.LOGPROBS}.get(question.vocabulary or "")
        return Answer(outputs[graph.PICKED].tolist(), outputs[wide] if wide else None)

    def keys_and_values(self) -> KeysAndValues:
        """A copy of those of the first row."""
        states = (state.state.data[:1] for state in self._request.query_state())
        return KeysAndValues(tuple(states)).copy()

    def _contexts(self, tokens: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Ids, mask and positions, as far as the model takes them; padding is only ever read last, and is no hole."""
        rows, count = tokens.shape
        positions = np.arange(self.depth, self.depth + count, dtype=np.int64)
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones((rows, self.depth + count), np.int64),
            "position_ids": np.tile(positions, (rows, 1)),
        }
        return {name: value for name, value in inputs.items() if name in self._inputs}

    def _take_over(self, begun: KeysAndValues) -> None:
        import openvino

        with _explained():
            for state, values in zip(self._request.query_state(), begun.states, strict=True):
                state.state = openvino.Tensor(np.ascontiguousarray(values))
        self.depth = begun.tokens


def _refuse_unknown_inputs(folder: Path, names: set[str]) -> None:
    if names - _KNOWN or not names >= _NEEDED:
        raise CheckpointError(
            f"{folder} is not a stateful IR of a causal language model: it has the inputs {', '.join(sorted(names))}. "
            f"Needed are {', '.join(sorted(_NEEDED))}, and {', '.join(sorted(_KNOWN - _NEEDED))} may be there."
        )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise GenerationError(f"OpenVINO could not score: {library_reason(error)}") from error

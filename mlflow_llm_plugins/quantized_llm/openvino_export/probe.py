"""Proof of an export: the log-probabilities of a random text, by torch and by what was exported."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_llm_plugins import hardware
from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE
from mlflow_llm_plugins.quantized_llm.openvino_export.context import longest_context, sliding_window
from mlflow_llm_plugins.quantized_llm.openvino_export.likelihoods import (
    FLOAT32,
    NEW_TOKENS,
    UNROUNDED,
    Floats,
    Ids,
    Likelihoods,
    by_continuous_batching,
    by_openvino,
    by_torch,
)

_EXACT_TOLERANCE = 1e-3  # largest difference, natural logarithms; right exports were within 1e-4, wrong ones 0.05 off
_PAGED_TOLERANCE = 1e-2  # the library adds up a softmax in float32: 0.004 off for 150,000 nearly equal logits
_ROUNDED_TOLERANCE = 0.25  # mean difference with bfloat16 arithmetic; wrong exports are off by 0.5 to 1.4
_ROWS = 2
_SHORTEST, _LONGEST = 48, 2112  # tokens of a row
_WORK = 1e12  # weights times tokens that the text may cost: seconds on a CPU of two cores
_FLOAT32_BYTES = 4
_HEADROOM = 1.5  # memory free for each byte of the float32 weights that the plugin makes


@dataclass(frozen=True, slots=True)
class Probe:
    """How far the exported model is from torch in float32 on the same weights; natural logarithms."""

    tokens: int  # of each of the two rows
    sliding_window: int | None  # the text is beyond it where `tokens` is larger
    is_exact: bool  # float32 arithmetic; False where memory was too short for that: differences include bfloat16's
    uncompressed_difference: float  # largest, before weights were rounded to 8 or 4 bits
    mean_difference: float  # absolute, of the files as written
    max_difference: float
    top1_agreement: float  # share of positions with the same most likely token
    paged_difference: float | None  # largest, paged form against plain form of the files; None: no openvino-genai

    def as_dict(self) -> dict[str, int | float | None]:
        """Plain values for a record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TorchReference:
    """A text, and what torch says of it."""

    text: Ids  # [rows, tokens]
    expected: Likelihoods
    sliding_window: int | None
    is_exact: bool

    @classmethod
    def of(cls, model: Any, traced: Any) -> TorchReference:
        """Ask torch.

        Args:
            model: The model itself, which tells vocabulary, context and size.
            traced: Its traceable copy, with its own attention still.
        """
        text = random_text(model)
        needed = _HEADROOM * _FLOAT32_BYTES * model.num_parameters()
        is_exact = hardware.available_memory_bytes() > needed
        return cls(text, by_torch(traced, text), sliding_window(model.config), is_exact)

    def check(self, converted: Any) -> float:
        """The largest difference of an uncompressed OpenVINO model, in memory.

        Raises:
            UnsupportedFeatureError: It is more than rounding.
        """
        differences = self._differences(self._ask(converted).logprobs, self.expected.logprobs)
        return self._checked(differences, "model", "torch", _EXACT_TOLERANCE)

    def prove(self, folder: Path, uncompressed_difference: float | None) -> Probe:
        """Compare the files as written.

        Args:
            folder: The exported files.
            uncompressed_difference: Before compression; None where there was none, so that the files are checked.

        Raises:
            UnsupportedFeatureError: They answer otherwise than they should.
        """
        found = self._ask(folder / MODEL_FILE)
        differences = self._differences(found.logprobs, self.expected.logprobs)
        if uncompressed_difference is None:
            uncompressed_difference = self._checked(differences, "model", "torch", _EXACT_TOLERANCE)
        return Probe(
            tokens=self.text.shape[1],
            sliding_window=self.sliding_window,
            is_exact=self.is_exact,
            uncompressed_difference=uncompressed_difference,
            mean_difference=float(differences.mean()),
            max_difference=float(differences.max()),
            top1_agreement=float((found.best == self.expected.best).mean()),
            paged_difference=self._paged_difference(folder),
        )

    def _paged_difference(self, folder: Path) -> float | None:
        """Continuous batching against the plain form of the same files, on the first row and what follows it."""
        prompt = self.text[:1]
        answer = by_continuous_batching(folder, prompt, FLOAT32 if self.is_exact else UNROUNDED)
        if answer is None:
            return None
        ids, logprobs = answer
        whole = np.concatenate([prompt, ids[None]], axis=1)
        expected = self._ask(folder / MODEL_FILE, whole).logprobs[0, -len(ids) :]
        differences = self._differences(logprobs, expected)
        return self._checked(differences, "model's paged form", "its plain form", _PAGED_TOLERANCE)

    def _ask(self, model: Any, text: Ids | None = None) -> Likelihoods:
        return by_openvino(model, self.text if text is None else text, FLOAT32 if self.is_exact else UNROUNDED)

    def _differences(self, found: Floats, expected: Floats) -> Floats:
        differences = np.abs(found - expected)
        if not np.isfinite(differences).all():
            raise UnsupportedFeatureError("its log-probabilities are no finite numbers")
        return differences

    def _checked(self, differences: Floats, what: str, reference: str, exact_tolerance: float) -> float:
        figure = float(differences.max() if self.is_exact else differences.mean())
        tolerance = exact_tolerance if self.is_exact else _ROUNDED_TOLERANCE
        if figure > tolerance:
            raise UnsupportedFeatureError(
                f"the exported {what} answers otherwise than {reference}: log-probabilities differ by {figure:.3g}, "
                f"and at most {tolerance:g} is rounding"
            )
        return float(differences.max())


def random_text(model: Any) -> Ids:
    """Two rows of random ids: twice the sliding window and more, unless the model is too large for that.

    Args:
        model: Tells vocabulary, context, window and size.
    """
    wanted = 2 * (sliding_window(model.config) or 0) + 8
    affordable = int(_WORK / (_ROWS * model.num_parameters()))
    length = max(_SHORTEST, min(wanted, affordable, _LONGEST))
    room = longest_context(model.config) or math.inf
    length = max(2, min(length, int(min(room - NEW_TOKENS, _LONGEST))))
    # Some have more inputs than outputs, such as a token that starts an answer, and some rows that stand for nothing.
    vocabulary = min(model.config.get_text_config().vocab_size, model.get_input_embeddings().weight.shape[0])
    return np.random.default_rng(0).integers(0, vocabulary, (_ROWS, length), dtype=np.int64)

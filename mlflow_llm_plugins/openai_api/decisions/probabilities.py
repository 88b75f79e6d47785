"""From log-probabilities of labels to probabilities of options, and how sure they are.

The two confidences are those of Jev, the model that System One came with, as transformers 5.23
(`decision/template_utils.py`) and llama.cpp compute them: 0 for a uniform distribution, 1 for certainty. OpenAI does
not define its own, so both wire formats carry these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlflow_llm_plugins.errors import GenerationError


def probabilities(logprobs: Sequence[float], temperature: float) -> tuple[float, ...]:
    """The softmax of the log-probabilities, divided by a temperature above 0.

    Raises:
        GenerationError: The model gave no label a probability, or one that is no number.
    """
    highest = max(logprobs)
    if not math.isfinite(highest) or any(map(math.isnan, logprobs)):
        raise GenerationError("The model's probabilities of the labels are no numbers above 0.")
    weights = [math.exp((logprob - highest) / temperature) for logprob in logprobs]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def label_mass(logprobs: Sequence[float]) -> float:
    """How likely the model was to answer with any of the labels at all."""
    return min(1.0, math.fsum(map(math.exp, logprobs)))  # rounded logits may add up to a little more


def expected_level(probabilities: Sequence[float]) -> float:
    """The mean level, counted from 0."""
    return math.fsum(level * probability for level, probability in enumerate(probabilities))


def choice_confidence(probabilities: Sequence[float]) -> float:
    """How far the likeliest option is above chance; 1 where there is only one."""
    count = len(probabilities)
    if count == 1:
        return 1.0
    return _within_unit((max(probabilities) - 1 / count) / (1 - 1 / count))


def score_confidence(probabilities: Sequence[float]) -> float:
    """How near to the likeliest level the others are expected, against levels all alike; 1 where there is only one."""
    count = len(probabilities)
    if count == 1:
        return 1.0
    mode = probabilities.index(max(probabilities))
    distance = math.fsum(probability * abs(level - mode) for level, probability in enumerate(probabilities))
    uniform = math.fsum(abs(level - (count - 1) / 2) for level in range(count)) / count
    return _within_unit(1 - distance / uniform)


def _within_unit(value: float) -> float:
    return min(1.0, max(0.0, value))

"""Judges for common questions: criteria, a described level for each score, and the columns that they need.

With a `scale` of other levels the descriptions do not apply; give a `rubric` of your own, or none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.judge.llm_judge import llm_judge
from mlflow_llm_plugins.metrics.judge.scale import parse_scale
from mlflow_llm_plugins.metrics.metric import LLMMetric


def answer_correctness(judge: Any = None, **options: Any) -> LLMMetric:
    """Whether the answer says what the reference answer (`targets`) says, and nothing wrong besides, from 1 to 5.

    Args:
        judge: Who judges, see `llm_judge`.
        **options: The other arguments of `llm_judge`, which come before those of this judge.
    """
    own = {
        "criteria": "The answer to the question is factually correct. The reference answer is right; wording, order, "
        "style and length do not matter, and further facts do no harm unless they are wrong.",
        "rubric": {
            5: "All that the reference answer says is said, and nothing in the answer is wrong.",
            4: "What matters is right; a detail is missing or imprecise.",
            3: "About half is right; something that matters is missing or wrong.",
            2: "Mostly wrong; one part agrees with the reference answer.",
            1: "Wrong, contradicts the reference answer, is about something else, or does not answer.",
        },
        "columns": ("inputs", "targets", "predictions"),
    }
    return _ready_made("answer_correctness", own, judge, options)


def answer_similarity(judge: Any = None, **options: Any) -> LLMMetric:
    """Whether the answer means the same as the reference answer (`targets`), from 1 to 5; it sees no question.

    Args:
        judge: Who judges, see `llm_judge`.
        **options: The other arguments of `llm_judge`, which come before those of this judge.
    """
    own = {
        "criteria": "The answer means the same as the reference answer. Compare what they say, not their words: the "
        "same meaning in other words is the same, the same words with another meaning are not.",
        "rubric": {
            5: "The same meaning in all parts; one could stand for the other.",
            4: "The same meaning but for a small part that is added, missing or weaker.",
            3: "The main point is shared; several parts differ.",
            2: "The same subject, but little of what is said about it is the same.",
            1: "Another subject, the opposite, or nothing is said.",
        },
        "columns": ("targets", "predictions"),
    }
    return _ready_made("answer_similarity", own, judge, options)


def relevance(judge: Any = None, **options: Any) -> LLMMetric:
    """Whether the answer deals with what was asked, right or wrong, from 1 to 5.

    Args:
        judge: Who judges, see `llm_judge`.
        **options: The other arguments of `llm_judge`, which come before those of this judge.
    """
    own = {
        "criteria": "The answer deals with what the question asks: all of it, and little else. Whether it is true is "
        "not judged here.",
        "rubric": {
            5: "Answers all that is asked, and every part of it serves that.",
            4: "Answers what is asked; a small part is missing or beside the point.",
            3: "Answers a part of what is asked, or much of it is beside the point.",
            2: "On the subject of the question, but does not answer it.",
            1: "Has nothing to do with the question, refuses without reason, or says nothing.",
        },
        "columns": ("inputs", "predictions"),
    }
    return _ready_made("relevance", own, judge, options)


def faithfulness(judge: Any = None, **options: Any) -> LLMMetric:
    """Whether all that the answer claims follows from the `context`, from 1 to 5.

    Args:
        judge: Who judges, see `llm_judge`.
        **options: The other arguments of `llm_judge`, which come before those of this judge.
    """
    own = {
        "criteria": "All that the answer claims is said in the context or follows from it. What is true but not in "
        "the context counts as not supported. To say that the context does not tell is faithful where that is so.",
        "rubric": {
            5: "Every claim is supported by the context.",
            4: "All claims that matter are supported; a detail is not.",
            3: "Some claims that matter are supported, some are not.",
            2: "Hardly any claim is supported, though it is about what the context is about.",
            1: "Nothing is supported, it contradicts the context, or it claims nothing and answers nothing.",
        },
        "columns": ("context", "inputs", "predictions"),
    }
    return _ready_made("faithfulness", own, judge, options)


def conciseness(judge: Any = None, **options: Any) -> LLMMetric:
    """Whether the answer says what is asked without needless words, from 1 to 5.

    Args:
        judge: Who judges, see `llm_judge`.
        **options: The other arguments of `llm_judge`, which come before those of this judge.
    """
    own = {
        "criteria": "The answer says all that the question needs in as few words as that takes. A short text that "
        "does not answer the question is not concise.",
        "rubric": {
            5: "Answers the question, and no sentence could be left out.",
            4: "Answers the question, with a few needless words.",
            3: "Answers the question; about a quarter repeats, hedges or digresses.",
            2: "Answers the question, but half or more is needless.",
            1: "The answer drowns in needless text, or the question is not answered.",
        },
        "columns": ("inputs", "predictions"),
    }
    return _ready_made("conciseness", own, judge, options)


def _ready_made(name: str, own: dict[str, Any], judge: Any, options: dict[str, Any]) -> LLMMetric:
    known = list(inspect.signature(llm_judge).parameters)
    for option in options:
        if option not in known:
            raise InvalidInputError(
                f"{name}: unknown option {option!r}.{did_you_mean(option, known)} Known: {', '.join(known)}."
            )
    if "scale" in options and not _describes(own["rubric"], options["scale"]):
        own = {**own, "rubric": None}
    return llm_judge(**{"name": name, **own, "judge": judge, **options})


def _describes(rubric: Mapping[int, str], scale: Any) -> bool:
    return {str(level) for level in rubric} == set(parse_scale(scale).labels)

"""`POST /v1/decisions`, OpenAI's format: a list of questions, an input of text or messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mlflow_llm_plugins.openai_api.decisions.conversation import conversation_text, parts_text
from mlflow_llm_plugins.openai_api.decisions.faults import InvalidDecisionError, TooManyQuestionsError, read_all
from mlflow_llm_plugins.openai_api.decisions.fields import (
    a_body,
    a_string,
    an_object,
    check_fields,
    items,
    question_type,
)
from mlflow_llm_plugins.openai_api.decisions.labels import QuestionType
from mlflow_llm_plugins.openai_api.decisions.limits import DecisionLimits
from mlflow_llm_plugins.openai_api.decisions.probabilities import (
    choice_confidence,
    expected_level,
    label_mass,
    probabilities,
    score_confidence,
)
from mlflow_llm_plugins.openai_api.decisions.questions import DecisionRequest, Option, Question, option_text
from mlflow_llm_plugins.openai_api.fields import present

_TYPES: dict[str, QuestionType] = {"predicate": "noul", "choice": "choice", "score": "score"}
_OPTIONS_OF = {"choice": "choices", "score": "levels"}


def parse_decisions(raw: object, limits: DecisionLimits) -> DecisionRequest:
    """Read the request; top-level fields that are not known do not count, `model` among them.

    Args:
        raw: The body, as JSON gives it.
        limits: What one request may ask.

    Raises:
        TooManyQuestionsError: More than `limits.max_questions`.
        InvalidDecisionError: Names what is wrong with the input and with each question.
        UnsupportedFeatureError: Images, streams.
    """
    body = a_body(raw)
    questions = body.get("questions")
    if isinstance(questions, list | tuple) and len(questions) > limits.max_questions:
        raise TooManyQuestionsError(f"questions has {len(questions)} questions; at most {limits.max_questions} fit.")
    questions = items("questions", questions, 1, limits.max_questions)
    state, *parsed = read_all(
        [
            partial(conversation_text, "input", body.get("input"), limits.max_depth),
            *(partial(_question, f"questions[{i}]", question, limits) for i, question in enumerate(questions)),
        ]
    )
    return DecisionRequest(state=state, state_title="Input", questions=tuple(parsed))


def decisions_answer(
    model: str,
    request: DecisionRequest,
    scores: Sequence[Sequence[float]],
    input_tokens: int,
    temperatures: Mapping[str, float],
) -> dict[str, Any]:
    """The body of the answer; arguments and errors are those of `systemone_answer`."""
    answers = [
        _ANSWERS[question.type](question, probabilities(row, temperatures.get(question.type, 1.0)))
        for question, row in zip(request.questions, scores, strict=True)
    ]
    masses = [{"label_mass": label_mass(row)} for row in scores]
    return {"model": model, "answers": answers, "usage": _usage(input_tokens), "diagnostics": masses}


def _usage(input_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens,
    }


def _question(where: str, raw: object, limits: DecisionLimits) -> Question:
    fields = present(an_object(where, raw))
    kind = _TYPES[question_type(f"{where}.type", fields.get("type"), _TYPES)]
    listed = _OPTIONS_OF.get(kind)
    check_fields(where, fields, ("type", "name", "instructions", *([listed] if listed else [])))
    name, instructions, options = read_all(
        [
            partial(_name, f"{where}.name", fields.get("name")),
            partial(_instructions, f"{where}.instructions", fields.get("instructions"), limits),
            partial(_READERS[kind], f"{where}.{listed}", fields.get(listed or ""), limits),
        ]
    )
    return Question(name=name, type=kind, instructions=instructions, options=options)


def _name(where: str, value: object) -> str | None:
    return None if value is None else a_string(where, value)


def _instructions(where: str, value: object, limits: DecisionLimits) -> str:
    text = parts_text(where, value, limits.max_depth)
    if not text:
        raise InvalidDecisionError(f"{where} must say what is asked; it is empty.")
    return text


def _truth(where: str, value: object, limits: DecisionLimits) -> tuple[Option, ...]:
    return Option(True), Option(False)


def _choices(where: str, value: object, limits: DecisionLimits) -> tuple[Option, ...]:
    options = tuple(
        _choice(f"{where}[{i}]", choice) for i, choice in enumerate(items(where, value, 2, limits.max_options))
    )
    if len({(type(option.value), option.value) for option in options}) < len(options):
        raise InvalidDecisionError(f"{where} has a value twice; each must be there once.")
    return options


def _choice(where: str, raw: object) -> Option:
    fields = present(an_object(where, raw))
    check_fields(where, fields, ("value", "description"))
    value = fields.get("value")
    if isinstance(value, bool):  # not the string of the same name
        return Option(value, option_text(str(value).lower(), _described(where, fields)))
    return Option(a_string(f"{where}.value", value), option_text(str(value), _described(where, fields)))


def _levels(where: str, value: object, limits: DecisionLimits) -> tuple[Option, ...]:
    return tuple(_level(f"{where}[{i}]", level) for i, level in enumerate(items(where, value, 2, limits.max_levels)))


def _level(where: str, raw: object) -> Option:
    fields = present(an_object(where, raw))
    check_fields(where, fields, ("label", "description"))
    label = a_string(f"{where}.label", fields.get("label"))
    return Option(label, option_text(label, _described(where, fields)))


def _described(where: str, fields: Mapping[str, Any]) -> str:
    return a_string(f"{where}.description", fields.get("description", ""))


def _predicate_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    return {"type": "predicate", "name": question.name, "probability": shares[0]}


def _choice_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    values = [option.value for option in question.options]
    return {
        "type": "choice",
        "name": question.name,
        "choice": values[shares.index(max(shares))],
        "confidence": choice_confidence(shares),
        "probabilities": [{"value": value, "probability": share} for value, share in zip(values, shares, strict=True)],
    }


def _score_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    levels = enumerate(zip(question.options, shares, strict=True))
    return {
        "type": "score",
        "name": question.name,
        "score": expected_level(shares),
        "confidence": score_confidence(shares),
        "probabilities": [
            {"value": level, "label": option.value, "probability": share} for level, (option, share) in levels
        ],
    }


_READERS: dict[QuestionType, Callable[[str, object, DecisionLimits], tuple[Option, ...]]] = {
    "noul": _truth,
    "choice": _choices,
    "score": _levels,
}
_ANSWERS = {"noul": _predicate_answer, "choice": _choice_answer, "score": _score_answer}

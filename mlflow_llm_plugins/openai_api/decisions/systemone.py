"""`POST /v1/systemone`, TypeSafe's format: questions by name, a state of any JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mlflow_llm_plugins.openai_api.decisions.faults import InvalidDecisionError, TooManyQuestionsError, read_all
from mlflow_llm_plugins.openai_api.decisions.fields import (
    a_body,
    a_string,
    an_object,
    check_count,
    check_fields,
    content,
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
from mlflow_llm_plugins.openai_api.fields import present, shown

_FIELDS = ("type", "instructions", "criteria")
_OUTCOMES = ("true", "false")


def parse_systemone(raw: object, limits: DecisionLimits) -> DecisionRequest:
    """Read the request; top-level fields that are not known do not count, `model` among them.

    Args:
        raw: The body, as JSON gives it.
        limits: What one request may ask.

    Raises:
        TooManyQuestionsError: More than `limits.max_questions`.
        InvalidDecisionError: Names what is wrong with the state and with each question.
        UnsupportedFeatureError: Images, boxes, streams.
    """
    body = a_body(raw)
    questions = an_object("questions", body.get("questions"))
    if not questions:
        raise InvalidDecisionError("questions must have at least one question, got an empty object.")
    if len(questions) > limits.max_questions:
        raise TooManyQuestionsError(f"questions has {len(questions)} questions; at most {limits.max_questions} fit.")
    state, *parsed = read_all(
        [
            partial(content, "state", body.get("state"), limits.max_depth),
            *(partial(_question, name, question, limits) for name, question in questions.items()),
        ]
    )
    return DecisionRequest(state=state, state_title="State", questions=tuple(parsed))


def systemone_answer(
    model: str,
    request: DecisionRequest,
    scores: Sequence[Sequence[float]],
    input_tokens: int,
    temperatures: Mapping[str, float],
) -> dict[str, Any]:
    """The body of the answer.

    Args:
        model: The name that the answer carries.
        request: From `parse_systemone`.
        scores: For each question the log-probabilities of its labels, unnormalised.
        input_tokens: Of all prompts.
        temperatures: By question type; 1 where a type is missing.

    Raises:
        GenerationError: A log-probability is no number.
    """
    answers = {
        question.name: _ANSWERS[question.type](question, probabilities(row, temperatures.get(question.type, 1.0)))
        for question, row in zip(request.questions, scores, strict=True)
    }
    masses = {
        question.name: {"label_mass": label_mass(row)} for question, row in zip(request.questions, scores, strict=True)
    }
    usage = {"input_tokens": input_tokens, "output_tokens": 0}
    return {"model": model, "answers": answers, "usage": usage, "diagnostics": masses}


def _question(name: str, raw: object, limits: DecisionLimits) -> Question:
    where = f"questions[{shown(name)}]"
    fields = present(an_object(where, raw))
    kind = question_type(f"{where}.type", fields.get("type"), _READERS)
    check_fields(where, fields, _FIELDS)
    a_string(where, name)
    instructions, options = read_all(
        [
            partial(content, f"{where}.instructions", fields.get("instructions", ""), limits.max_depth),
            partial(_READERS[kind], f"{where}.criteria", fields.get("criteria"), limits),
        ]
    )
    if kind == "noul" and not any([instructions, *(option.text for option in options)]):
        raise InvalidDecisionError(f"{where} asks nothing: a noul needs instructions, or criteria of true or false.")
    return Question(name=name, type=kind, instructions=instructions, options=options)


def _outcomes(where: str, criteria: object, limits: DecisionLimits) -> tuple[Option, ...]:
    given = an_object(where, {} if criteria is None else criteria)
    check_fields(where, given, _OUTCOMES)
    yes, no = (_description(f"{where}.{name}", given.get(name), limits) for name in _OUTCOMES)
    return Option(True, yes), Option(False, no)


def _choices(where: str, criteria: object, limits: DecisionLimits) -> tuple[Option, ...]:
    given = an_object(where, criteria)
    check_count(where, len(given), 1, limits.max_options)
    return tuple(
        Option(name, option_text(a_string(where, name), _description(f"{where}[{shown(name)}]", description, limits)))
        for name, description in given.items()
    )


def _levels(where: str, criteria: object, limits: DecisionLimits) -> tuple[Option, ...]:
    levels = items(where, criteria, 1, limits.max_levels)
    return tuple(Option(level, content(f"{where}[{i}]", level, limits.max_depth)) for i, level in enumerate(levels))


def _description(where: str, value: object, limits: DecisionLimits) -> str:
    return "" if value is None else content(where, value, limits.max_depth)


def _noul_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    return {"type": "noul", "noul": shares[0]}


def _choice_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    by_option = {option.value: share for option, share in zip(question.options, shares, strict=True)}
    return {
        "type": "choice",
        "choice": max(by_option, key=by_option.__getitem__),
        "confidence": choice_confidence(shares),
        "probabilities": by_option,
    }


def _score_answer(question: Question, shares: Sequence[float]) -> dict[str, Any]:
    return {
        "type": "score",
        "score": expected_level(shares),
        "legend": {str(level): option.value for level, option in enumerate(question.options)},
        "confidence": score_confidence(shares),
        "probabilities": {str(level): share for level, share in enumerate(shares)},
    }


_READERS: dict[QuestionType, Callable[[str, object, DecisionLimits], tuple[Option, ...]]] = {
    "noul": _outcomes,
    "choice": _choices,
    "score": _levels,
}
_ANSWERS = {"noul": _noul_answer, "choice": _choice_answer, "score": _score_answer}

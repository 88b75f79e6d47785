"""The chats that ask the questions of a request, each of one message.

What stands first decides what is computed: prompts share what they begin with, within a request and, for as long as
the engine keeps it, between requests. Several questions about one state share the state. One question a request is
mostly asked of many states in turn, which share the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from mlflow_llm_plugins.openai_api.decisions.questions import DecisionRequest, Option, Question
from mlflow_llm_plugins.openai_api.fields import wrong
from mlflow_llm_plugins.openai_api.messages import Message

Layout = Literal["auto", "state_first", "question_first"]


def question_chats(request: DecisionRequest, layout: Layout = "auto") -> Iterator[tuple[Message, ...]]:
    """A chat for each question, made when it is asked for.

    Each ends with a line that names the labels. Questions of one request begin with the same text up to the end of
    its state, or requests with the same question up to the beginning of theirs.

    Args:
        request: Control tokens in it are disarmed when the chat is rendered.
        layout: "auto" begins with the question where there is one, with the state where there are several. Answers
            move with the layout.

    Raises:
        InvalidInputError: The layout is none of these.
    """
    if layout not in get_args(Layout):
        raise wrong("layout", f"one of {', '.join(get_args(Layout))}", layout)
    state_first = layout == "state_first" or (layout == "auto" and len(request.questions) > 1)
    write = _state_first if state_first else _question_first
    return (({"role": "user", "content": write(request, question)},) for question in request.questions)


def _state_first(request: DecisionRequest, question: Question) -> str:
    return f"{_state(request)}\n\n{_asked(question)}\n{_closing(question)}"


def _question_first(request: DecisionRequest, question: Question) -> str:
    return f"{_asked(question)}\n\n{_state(request)}\n\n{_closing(question)}"


def _state(request: DecisionRequest) -> str:
    return f"{request.state_title}:\n{request.state}"


def _asked(question: Question) -> str:
    described = zip(question.labels, question.options, strict=True)
    options = [_described(question, label, option) for label, option in described]
    return "\n".join(filter(None, [question.instructions, *options]))


def _described(question: Question, label: str, option: Option) -> str:
    if question.type == "noul":  # Yes and No need no description
        return f"{label}: {option.text}" if option.text else ""
    return f"{label}. {option.text}"


def _closing(question: Question) -> str:
    labels = question.labels
    if question.type == "noul":
        return f"Answer {' or '.join(labels)} only."
    form = "digit" if question.type == "score" else "letter" if len(labels[0]) == 1 else "two letters"
    what = "level" if question.type == "score" else "option"
    span = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    return f"Answer with the {form} of the {what} that fits best ({span}) only."

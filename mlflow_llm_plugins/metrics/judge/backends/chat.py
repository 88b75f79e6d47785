"""A verdict written as JSON by a chat model whose server holds it to a schema, with a rationale behind it if asked.

Reads the probabilities of the options, too, where the server gives the alternatives to each token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.metrics.judge.backends.alternatives import option_logprobs
from mlflow_llm_plugins.metrics.judge.backends.questions import sendable
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError, option_index
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

PATH = "/chat/completions"
VERDICT, RATIONALE = "verdict", "rationale"

_EXPLAIN = "Say in one or two sentences why."
_CUT_OFF = "the judge's answer was cut off; raise max_tokens"
_UNREADABLE = "the judge's answer is not the JSON that was asked for"
_INVALID = (400, 422)  # statuses
_FORM = ("response_format", "json_schema", "structured output")
_NEWER_BOUND = "max_completion_tokens"  # what newer models call it
_TOP = 20  # alternatives to a token, OpenAI's own bound
_OPTIONAL: dict[str, dict[str, Any]] = {  # by what a refusal names
    "logprobs": {"logprobs": True, "top_logprobs": _TOP},
    "temperature": {"temperature": 0},
}


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote."""

    text: str
    is_cut_off: bool
    logprobs: Any  # as they came


class ChatForm:
    """Requests and answers; remembers which parameters a server does not take. Thread-safe."""

    def __init__(self, max_tokens: int | None) -> None:
        """Begin with all parameters.

        Args:
            max_tokens: Bound of an answer; None: the server's own.
        """
        self._left_out: set[str] = set()
        self._bound = {} if max_tokens is None else {"max_tokens": max_tokens}

    def body(self, question: Question, rationale: bool) -> dict[str, Any]:
        """The request for a verdict, without the model."""
        text = f"{question.text()}\n{in_json(VERDICT, rationale)}"
        asked = {"messages": [_message("user", text)], "response_format": _schema(question, rationale)}
        return {**asked, **self._parameters()}

    def explanation_body(self, question: Question, choice: int) -> dict[str, Any]:
        """The request for a rationale of a verdict that was read from probabilities."""
        label = question.options[choice].label
        messages = [_message("user", question.text()), _message("assistant", label), _message("user", _EXPLAIN)]
        return {"messages": messages, **{k: v for k, v in self._parameters().items() if "logprobs" not in k}}

    def read(self, question: Question, answer: Any, rationale: bool) -> Opinion:
        """The opinion in an answer.

        Raises:
            NoOpinionError: It is none of the options, or was cut off.
            UnansweredError: It is no answer to a chat.
        """
        whole = written(answer)
        if whole.is_cut_off:
            raise NoOpinionError(_CUT_OFF)
        given = _object(whole.text)
        choice = option_index(given.get(VERDICT), question)
        words = given.get(RATIONALE) if rationale else None
        found = option_logprobs(whole.text, whole.logprobs, [option.label for option in question.options], VERDICT)
        return Opinion(
            choice=choice,
            logprobs=found,
            choice_mass=None if found is None else min(1.0, math.fsum(map(math.exp, found))),
            rationale=words if isinstance(words, str) else None,
        )

    def answered(
        self, send: Callable[[Mapping[str, Any]], Any], body: Callable[[], dict[str, Any]], question: Question
    ) -> Any:
        """What is answered to a request, sent without the parameters that the server does not take.

        Args:
            send: Raises `UnansweredError`.
            body: Makes the request, of this form.
            question: Which a refusal may repeat.

        Raises:
            UnansweredError: There is no answer, and not for a parameter that was sent and can be left out.
        """
        while True:
            sent = body()
            try:
                return send(sent)
            except UnansweredError as error:
                if not self._drop(error, sent, question):
                    raise

    def _drop(self, error: UnansweredError, sent: Mapping[str, Any], question: Question) -> bool:
        """Whether another try would do without what is refused: left out, or named otherwise, from now on.

        Of several threads that are refused the same, each one's own request tells that, not what is left out by now.
        """
        if error.status not in _INVALID:
            return False
        refusal, text = error.refusal, question.text()
        if "max_tokens" in sent and refusal.names(_NEWER_BOUND, text):
            self._bound = {_NEWER_BOUND: sent["max_tokens"]}
            return True
        named = [name for name in _OPTIONAL if name in sent and refusal.names(name, text)]
        self._left_out.update(named)
        return bool(named)

    def _parameters(self) -> dict[str, Any]:
        kept = [given for name, given in _OPTIONAL.items() if name not in self._left_out]
        return {**self._bound, **{key: value for given in kept for key, value in given.items()}}


def in_json(verdict: str, rationale: bool) -> str:
    """A last line of the question: the form, which some servers hold a model to without telling it."""
    behind = f', then "{RATIONALE}", one or two sentences on it' if rationale else ""
    return f'Write it into a JSON object as "{verdict}"{behind}.'


def written(answer: Any) -> Written:
    """What a model wrote, also where it was cut off.

    Raises:
        NoOpinionError: Nothing.
        UnansweredError: It is no answer to a chat.
    """
    try:
        choice = answer["choices"][0]
        message, is_cut_off = choice["message"], choice.get("finish_reason") == "length"
        content = message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnansweredError("the judge's answer has another form than was asked for") from None
    if not isinstance(content, str):
        refused = "the judge refused to answer" if message.get("refusal") else _UNREADABLE
        raise NoOpinionError(_CUT_OFF if is_cut_off else refused)
    return Written(content, is_cut_off, choice.get("logprobs"))


def refuses_form(error: UnansweredError, question: Question) -> bool:
    """Whether a server says that it cannot hold an answer to a schema."""
    text = question.text()
    return error.status in _INVALID and any(error.refusal.names(name, text) for name in _FORM)


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": sendable(text)}


def _schema(question: Question, rationale: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {VERDICT: {"type": "string", "enum": [o.label for o in question.options]}}
    if rationale:  # after the verdict, which does not depend on it
        properties[RATIONALE] = {"type": "string"}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": VERDICT, "strict": True, "schema": schema}}


def _object(content: str) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise NoOpinionError(_UNREADABLE) from None
    if not isinstance(value, Mapping):
        raise NoOpinionError(_UNREADABLE)
    return value

"""Which route of a server is asked: the one that is named, or the first one that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from mlflow_llm_plugins.errors import EngineUnavailableError
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.served_model import DENIED, UNKNOWN_KEY, ServedModel
from mlflow_llm_plugins.metrics.judge.backends.settings import Route
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

Ask = Callable[[Route, Question, bool], Opinion]

_NO_ROUTE = (404, 405, 501)
_REFUSED = (400, 413, 422, *DENIED)  # the route, or one question on it


class ServedRoute:
    """A route of a server. Thread-safe."""

    def __init__(self, url: str, model: ServedModel, name: Route | None) -> None:
        """Take what is known, and ask nobody.

        Args:
            url: Of the server, for messages.
            model: Of the server, for messages.
            name: None: not known yet.
        """
        self._url = url
        self._model = model
        self.name = name

    def opinion(self, ask: Ask, question: Question, rationale: bool) -> Opinion:
        """By the route; as long as none is known by the first one that is there, which is kept.

        Args:
            ask: Gets the route, the question and whether a rationale is wanted; raises `NoOpinionError`.
            question: Where a route refuses it that may be there, the route is asked one without any case, so that no
                single row decides how the others are judged.
            rationale: Whether one is wanted.

        Raises:
            NoOpinionError: This question has none.
            UnansweredError: The same; with a status of `DENIED` no route lets us in.
            EngineUnavailableError: The server has none of the routes.
        """
        if self.name is not None:
            return ask(self.name, question, rationale)
        refusals: list[UnansweredError] = []
        for route in get_args(Route):
            try:
                return self._on_trial(route, ask, question, rationale)
            except UnansweredError as error:
                if not _leads_on(error):
                    raise
                refusals.append(error)
        raise self._without_route(refusals)

    def _on_trial(self, route: Route, ask: Ask, question: Question, rationale: bool) -> Opinion:
        """By a route that is kept if it is there, even where it fails on this question."""
        try:
            opinion = ask(route, question, rationale)
        except UnansweredError as error:
            if not _may_concern_one_question(error) or not _answers(route, ask, question):
                raise
            self.name = route
            raise NoOpinionError(str(error)) from None  # whatever its status means elsewhere
        except NoOpinionError:  # an answer, if none that can be used
            self.name = route
            raise
        self.name = route
        return opinion

    def _without_route(self, refusals: Sequence[UnansweredError]) -> Exception:
        """The last refusal, since nearly all servers have the last route; else what they answer that have none."""
        told = max(reversed(refusals), key=_explains)
        if told.status in _REFUSED:
            return told
        return EngineUnavailableError(
            f"{self._url} has none of the routes {', '.join(get_args(Route))} for model {self._model.name!r}: {told}. "
            "Is the address right, with its /v1, and the model's name?"
        )


def _answers(route: Route, ask: Ask, question: Question) -> bool:
    """Whether a route answers a question such as this.

    Raises:
        UnansweredError: Nobody knows: the server fails.
    """
    try:
        ask(route, _without_case(question), False)
    except UnansweredError as error:
        if not _leads_on(error):
            raise
        return False
    except NoOpinionError:
        return True
    return True


def _without_case(question: Question) -> Question:
    """What all rows share; of what is judged, which may be too long, nothing."""
    return replace(question, sections=tuple(replace(section, text="N/A") for section in question.sections))


def _may_concern_one_question(error: UnansweredError) -> bool:
    return _leads_on(error) and error.status not in (*_NO_ROUTE, UNKNOWN_KEY)


def _leads_on(error: UnansweredError) -> bool:
    """Whether the next route may answer; where the server fails, nothing is known of the route."""
    return error.status in (*_NO_ROUTE, *_REFUSED) or _is_other_form(error)


def _is_other_form(error: UnansweredError) -> bool:
    """Whether there was an answer, but none of the route: some servers say with status 200 that they have none."""
    return error.status is None and not error.is_silence


def _explains(error: UnansweredError) -> int:
    """How much: a refusal most, then an answer of another form, then that there is no such route."""
    return 0 if error.status in _NO_ROUTE else 1 if _is_other_form(error) else 2

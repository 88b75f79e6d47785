"""A judge behind a URL: typed decisions where the server has them, else a verdict as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends import chat
from mlflow_llm_plugins.metrics.judge.backends.api_key import api_key
from mlflow_llm_plugins.metrics.judge.backends.decisions import DecisionFormat, OpenAIDecisions, SystemOne
from mlflow_llm_plugins.metrics.judge.backends.http_calls import HttpCalls
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.served_model import DENIED, ServedModel
from mlflow_llm_plugins.metrics.judge.backends.served_route import ServedRoute
from mlflow_llm_plugins.metrics.judge.backends.server_url import ServerUrl
from mlflow_llm_plugins.metrics.judge.backends.settings import Route, ServerSettings
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

DECISIONS: dict[str, Callable[[], DecisionFormat]] = {"systemone": SystemOne, "decisions": OpenAIDecisions}
_INVALID = (400, 422)


class ServerJudge:
    """Asks a server; which route it has is found out with the first question."""

    def __init__(self, url: str, **settings: Any) -> None:
        """Check what was given; nothing is connected yet.

        Args:
            url: `http(s)://host:port/v1`, with `#model` behind it or not.
            **settings: See `ServerSettings`.

        Raises:
            InvalidInputError: The URL or a setting cannot be used.
        """
        self._settings = ServerSettings.parse(settings, "judge")
        address = ServerUrl.of(url)
        if None not in (address.model, self._settings.model) and address.model != self._settings.model:
            raise InvalidInputError(
                f"judge: the URL names model {address.model!r}, the settings {self._settings.model!r}. Give one."
            )
        self._url = address.base
        self._model = ServedModel(self._url, address.model or self._settings.model)
        self._route = ServedRoute(self._url, self._model, self._settings.route)
        self._rows = RowsInFlight(self._settings.max_in_flight, self._settings.max_unanswered)
        self._form = chat.ChatForm(self._settings.max_tokens)
        self._open: HttpCalls | None = None

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`.

        Raises:
            AccessDeniedError: The server refuses the key, or the key is missing.
            EngineUnavailableError: There is no server, or it has none of the routes.
            InvalidInputError: The server has several models and none is named, or cannot hold answers to a form.
        """
        self._connect()
        return self._rows.ask(partial(self._opinion, rationale=rationale), questions, progress)

    def check(self) -> None:
        """Look whether the server is there, lets us in, and has one model if none is named; no question is asked.

        Raises:
            AccessDeniedError: The server refuses the key, or the key is missing.
            EngineUnavailableError: There is no server.
            InvalidInputError: The server has several models and none is named.
        """
        self._connect()
        with self._explained_errors():
            self._model.check(self._calls)

    def describe(self) -> Mapping[str, Any]:
        """Address, model, route and settings, as far as they are known by then; of keys the place."""
        found = {"backend": "server", "url": self._url, "model": self._model.name, "route": self._route.name}
        return {**self._settings.model_dump(), **found}

    def close(self) -> None:
        """Close the connections."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connect(self) -> None:
        if self._open is None:
            self._open = HttpCalls(self._url, api_key(self._url, self._settings), self._settings, self._rows.stopping)

    @property
    def _calls(self) -> HttpCalls:
        assert self._open is not None  # `ask` opens it
        return self._open

    def _opinion(self, question: Question, rationale: bool) -> Opinion:
        with self._explained_errors():
            self._model.find(self._calls)
            return self._route.opinion(self._by, question, rationale)

    @contextmanager
    def _explained_errors(self) -> Iterator[None]:
        """What concerns all rows, and what to do about it."""
        try:
            yield
        except UnansweredError as error:
            if error.status in DENIED:
                raise AccessDeniedError(
                    f"{self._url}: {error}. Name the variable that holds its key as api_key_env."
                ) from None
            if error.is_unreached:
                raise EngineUnavailableError(
                    f"{self._url}: {error}. Is it running, and is the address right?"
                ) from None
            raise

    def _by(self, route: Route, question: Question, rationale: bool) -> Opinion:
        if route not in DECISIONS:
            return self._by_chat(question, rationale)
        wire = DECISIONS[route]()
        opinion = wire.read(question, self._decided(wire.path, self._addressed(wire.body(question))))
        return self._explained(question, opinion) if rationale else opinion

    def _decided(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._calls.post(path, body)
        except UnansweredError as error:
            if error.status not in _INVALID:
                raise
            raise UnansweredError(
                f'{error} to a typed decision; route="chat" asks for a verdict as JSON instead', status=error.status
            ) from None

    def _by_chat(self, question: Question, rationale: bool) -> Opinion:
        answer = self._chat(question, lambda: self._form.body(question, rationale))
        return self._form.read(question, answer, rationale)

    def _explained(self, question: Question, opinion: Opinion) -> Opinion:
        """With a rationale by the same model, where the server has chats; the verdict stands without it."""
        assert opinion.choice is not None
        choice = opinion.choice
        try:
            written = chat.written(self._chat(question, lambda: self._form.explanation_body(question, choice)))
        except NoOpinionError:
            return opinion
        return replace(opinion, rationale=written.text.strip() or None)

    def _chat(self, question: Question, body: Callable[[], dict[str, Any]]) -> Any:
        try:
            return self._form.answered(partial(self._calls.post, chat.PATH), lambda: self._addressed(body()), question)
        except UnansweredError as error:
            if chat.refuses_form(error, question):
                raise InvalidInputError(
                    f"{self._url}: {error}: it cannot hold an answer of model {self._model.name!r} to a JSON schema. "
                    "Take a server of typed decisions, or one with structured outputs."
                ) from None
            raise

    def _addressed(self, body: dict[str, Any]) -> dict[str, Any]:
        return body if self._model.name is None else {"model": self._model.name, **body}

"""The pyfunc model: what MLflow's stock paths call, answered by a generation engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins import openai_api
from mlflow_llm_plugins.errors import (
    InvalidInputError,
    LLMError,
    QueueFullError,
    UnsupportedFeatureError,
    mlflow_errors,
)
from mlflow_llm_plugins.generation import (
    GenerationEngine,
    GenerationOutput,
    GenerationRequest,
    GenerationStream,
)
from mlflow_llm_plugins.quantized_llm.batch import generate_all, generate_each
from mlflow_llm_plugins.quantized_llm.completions import Completions, Work
from mlflow_llm_plugins.quantized_llm.inputs import Row, Rows, Single, read_input
from mlflow_llm_plugins.quantized_llm.record import Task
from mlflow_llm_plugins.quantized_llm.signature import given

_SHORTEST_PROMPT = [0]  # token ids


class QuantizedLLMPyfunc:
    """Answers each form of input in the shape that fits it; safe to call from many threads.

    | input | answer |
    |---|---|
    | string, list, array, Series, DataFrame | a list of texts, one for each row |
    | dict with `messages` | a `chat.completion` dict |
    | dict with `prompt` | a `text_completion` dict |

    A string is a user's message where the task is chat, else raw text. A dict with `prompt` is always raw text.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        *,
        model_name: str,
        task: Task,
        generation_config: Mapping[str, Any] | None = None,
        prompt_template: str | None = None,
        chat_template: str | None = None,
        max_in_flight: int = 32,
        frame_is_request: bool = False,
        decision_temperatures: Mapping[str, float] | None = None,
    ) -> None:
        """Wrap an engine, which stays the caller's to close.

        Args:
            engine: Already running.
            model_name: What answers carry as `model`.
            task: What a plain string means.
            generation_config: Defaults of requests, in transformers' words. Keys that cannot be honoured are named
                in one warning.
            prompt_template: With "{prompt}" where the text goes; for strings and rows, and for `prompt` where the
                task is completions.
            chat_template: Used instead of the tokenizer's.
            max_in_flight: Rows of one call that the engine has at the same time; twice its batch keeps it busy and
                leaves room in its queue for others.
            frame_is_request: See `read_input`.
            decision_temperatures: Of a server's typed decisions, by type of question.
        """
        self.completions = Completions(
            engine,
            model_name=model_name,
            task=task,
            generation_config=generation_config,
            prompt_template=prompt_template,
            chat_template=chat_template,
        )
        self.max_in_flight = max_in_flight
        self.decision_temperatures = dict(decision_temperatures or {})
        self._engine = engine
        self._frame_is_request = frame_is_request

    def get_raw_model(self) -> GenerationEngine:
        """The engine, for `PyFuncModel.get_raw_model()`."""
        return self._engine

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> list[str] | dict[str, Any]:
        """Answer rows or one request.

        Args:
            data: See the class.
            params: Parameters of the signature. A field of the data itself comes first; None means not given.

        Raises:
            MlflowException: Bad input, found before anything is generated, or a failure of the engine; a message
                about one of several rows has its number. The call's other requests are cancelled then.
        """
        with mlflow_errors():
            payload = read_input(data, self._frame_is_request)
            if isinstance(payload, Rows):
                work = self.completions.rows(payload.rows, given(params))
                return [output.text for output in self._generate(work, "row")]
            return self._answer(self._request(payload, params))

    def predict_each(
        self,
        rows: Sequence[Row],
        params: dict[str, Any] | None = None,
        *,
        max_in_flight: int | None = None,
        progress: bool = True,
    ) -> list[GenerationOutput | LLMError]:
        """Answer rows of which each stands for itself; for callers inside this process.

        Args:
            rows: Strings or conversations. Anything else fails as a row.
            params: As in `predict`, for all rows.
            max_in_flight: Rows that the engine has at the same time; None takes the model's own. With 1 each has the
                engine to itself, which is how latency is measured.
            progress: Whether many rows may show a progress bar on a terminal.

        Returns:
            For each row its output, or the error that `predict` would have raised for it alone.

        Raises:
            InvalidInputError: `params` or `max_in_flight` are wrong for any row; nothing was generated.
        """
        in_flight = self.max_in_flight if max_in_flight is None else max_in_flight
        if in_flight < 1:
            raise InvalidInputError(f"max_in_flight must be at least 1, got {max_in_flight!r}.")
        asked = given(params)
        self._check_parameters(asked)
        requests = [self._row_request(row, asked) for row in rows]
        return generate_each(self._engine, requests, in_flight, "row", progress=progress)

    def predict_stream(self, data: Any, params: dict[str, Any] | None = None) -> Iterator[openai_api.Chunk]:
        """Answer one request or one row in chunks of OpenAI's API.

        Closing the iterator cancels what is not finished. Several choices are generated together and delivered one
        after the other.

        Raises:
            MlflowException: Bad input, at once; a failure of the engine, while iterating.
        """
        with mlflow_errors():
            payload = read_input(data, self._frame_is_request)
            if isinstance(payload, Single):
                return self._stream(self._request(payload, params))
            if len(payload.rows) > 1:
                raise InvalidInputError(f"predict_stream answers one row at a time, got {len(payload.rows)}.")
            return self._stream(self.completions.rows(payload.rows, given(params)))

    def _row_request(self, row: object, params: Mapping[str, Any]) -> GenerationRequest | LLMError:
        try:
            return self.completions.rows([_one_row(row)], params).requests[0]
        except LLMError as error:
            return error

    def _check_parameters(self, params: Mapping[str, Any]) -> None:
        """Raise what is wrong with parameters for any row, also for one of a single token."""
        self.completions.rows((), params)
        (request,) = self.completions.completion({**params, "prompt": _SHORTEST_PROMPT}).requests
        self._engine.check(request)

    def _request(self, payload: Single, params: dict[str, Any] | None) -> Work:
        body = {**given(params), **payload.request}
        return self.completions.chat(body) if "messages" in body else self.completions.completion(body)

    def _generate(self, work: Work, unit: str) -> list[GenerationOutput]:
        return generate_all(self._engine, work.requests, self.max_in_flight, unit)

    def _answer(self, work: Work) -> dict[str, Any]:
        if work.options.stream:
            raise UnsupportedFeatureError(
                "stream=True is not supported by predict, which returns whole answers; "
                "call predict_stream instead, or leave stream out."
            )
        return self.completions.answer(self.completions.echoed(work), self._generate(work, "choice"))

    def _stream(self, work: Work) -> Iterator[openai_api.Chunk]:
        for request in work.requests:
            self._engine.check(request)
        return self._chunks(work)

    def _chunks(self, work: Work) -> Iterator[openai_api.Chunk]:
        work = self.completions.echoed(work)
        chunks = self.completions.chunks(work)
        waiting, streams = deque(work.requests), deque[GenerationStream]()
        outputs: list[GenerationOutput] = []
        try:
            with mlflow_errors():
                while waiting or streams:
                    self._submit_some(waiting, streams)
                    yield from _choice(chunks.choice(len(outputs)), streams[0])
                    outputs.append(streams.popleft().result())
                yield from self.completions.scored_only(chunks, work)
                yield from self.completions.closing(chunks, work, outputs)
        finally:
            for stream in streams:
                stream.cancel()

    def _submit_some(self, waiting: deque[GenerationRequest], streams: deque[GenerationStream]) -> None:
        """As many as our share of the queue and the queue itself allow, but one at least."""
        while waiting and len(streams) < self.max_in_flight:
            try:
                streams.append(self._engine.submit(waiting[0]))
            except QueueFullError:
                if not streams:
                    raise
                return
            waiting.popleft()


def _one_row(cell: object) -> Row:
    """The row, as `read_input` reads it among others."""
    if isinstance(cell, str):
        return cell
    try:
        payload = read_input([cell])
    except InvalidInputError:
        payload = None  # its message counts rows, and this is one
    if isinstance(payload, Rows) and len(payload.rows) == 1:
        return payload.rows[0]
    shown = repr(cell) if cell is None or isinstance(cell, int | float) else type(cell).__name__
    raise InvalidInputError(f"A row must be a string or a list of messages, got {shown}.")


def _choice(choice: openai_api.Choice, stream: GenerationStream) -> Iterator[openai_api.Chunk]:
    yield from choice.opening()
    for event in stream:
        yield from choice.push(event)
    yield from choice.finish(stream.result().finish_reason)

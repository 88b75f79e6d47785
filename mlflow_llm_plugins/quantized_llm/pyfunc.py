"""The pyfunc model: what MLflow's stock paths call, answered by a generation engine."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins import openai_api
from mlflow_llm_plugins.errors import InvalidInputError, QueueFullError, UnsupportedFeatureError, mlflow_errors
from mlflow_llm_plugins.generation import (
    Constraint,
    GenerationEngine,
    GenerationOutput,
    GenerationRequest,
    GenerationStream,
)
from mlflow_llm_plugins.openai_api.fields import named
from mlflow_llm_plugins.quantized_llm.batch import generate_all, numbered
from mlflow_llm_plugins.quantized_llm.inputs import Rows, Single, read_input
from mlflow_llm_plugins.quantized_llm.prompts import PromptEncoder
from mlflow_llm_plugins.quantized_llm.record import Task
from mlflow_llm_plugins.quantized_llm.signature import given
from mlflow_llm_plugins.quantized_llm.template import CHAT

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """What to generate: the tokens of each prompt, in order, and how."""

    is_chat: bool
    prompts: Sequence[list[int]]
    options: openai_api.RequestOptions


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
        """
        self._engine = engine
        self._model_name = model_name
        self._prompts = PromptEncoder(engine.tokenizer, task, prompt_template, chat_template)
        self._defaults = openai_api.sampling_defaults(generation_config or {})
        self._max_in_flight = max_in_flight
        self._frame_is_request = frame_is_request
        if ignored := openai_api.unhonoured(generation_config or {}):
            _logger.warning(
                "Answers are made without %s: the model's generation_config has it, the engine does not support it.",
                named(ignored),
            )

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
                return [output.text for output in self._generate(self._rows(payload, params), "row")]
            return self._answer(self._request(payload, params))

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
            return self._stream(self._rows(payload, params))

    def _request(self, payload: Single, params: dict[str, Any] | None) -> _Work:
        body = {**given(params), **payload.request}
        if "messages" in body:
            chat = openai_api.ChatCompletionRequest.parse(body)
            return _Work(True, [self._prompts.chat(chat.messages, chat.chat_template_kwargs)], chat)
        completion = openai_api.CompletionRequest.parse(body)
        return _Work(False, [self._prompts.raw(prompt) for prompt in completion.prompts], completion)

    def _rows(self, payload: Rows, params: dict[str, Any] | None) -> _Work:
        options = openai_api.RequestOptions.parse(given(params))
        if options.n > 1:
            raise UnsupportedFeatureError(
                f"n={options.n} is not supported for rows, which get one text each; "
                "for several answers send a dict with messages or prompt."
            )
        prompts = []
        for i, row in enumerate(payload.rows):
            with numbered("row", i, len(payload.rows)):
                prompts.append(self._prompts.row(row))
        return _Work(self._prompts.task == CHAT, prompts, options)

    def _generate(self, work: _Work, unit: str) -> list[GenerationOutput]:
        return generate_all(self._engine, self._generation_requests(work), self._max_in_flight, unit)

    def _generation_requests(self, work: _Work) -> list[GenerationRequest]:
        """One for each choice, prompt by prompt; all are checked before the first is submitted."""
        sampling = openai_api.with_defaults(work.options.sampling, self._defaults)
        seed = sampling.pop("seed", None)
        if "constraint" in sampling:
            sampling["constraint"] = Constraint(*sampling["constraint"])
        return [
            GenerationRequest(prompt_ids=ids, seed=None if seed is None else _nth_seed(seed, i), **sampling)
            for ids in work.prompts
            for i in range(work.options.n)
        ]

    def _answer(self, work: _Work) -> dict[str, Any]:
        if work.options.stream:
            raise UnsupportedFeatureError(
                "stream=True is not supported by predict, which returns whole answers; "
                "call predict_stream instead, or leave stream out."
            )
        choices = _grouped(self._generate(work, "choice"), work.options.n)
        if work.is_chat:
            return openai_api.chat_completion(self._model_name, choices[0])
        return openai_api.text_completion(self._model_name, choices)

    def _stream(self, work: _Work) -> Iterator[openai_api.Chunk]:
        kind = openai_api.ChatChunks if work.is_chat else openai_api.CompletionChunks
        chunks = kind(self._model_name, work.options.include_usage)
        requests = self._generation_requests(work)
        for request in requests:
            self._engine.check(request)
        return self._chunks(requests, chunks, work.options.n)

    def _chunks(
        self, requests: Sequence[GenerationRequest], chunks: openai_api.Chunks, n: int
    ) -> Iterator[openai_api.Chunk]:
        waiting, streams = deque(requests), deque[GenerationStream]()
        outputs: list[GenerationOutput] = []
        try:
            with mlflow_errors():
                while waiting or streams:
                    self._submit_some(waiting, streams)
                    yield from _choice(chunks, len(outputs), streams[0])
                    outputs.append(streams.popleft().result())
                yield from chunks.closing(_grouped(outputs, n))
        finally:
            for stream in streams:
                stream.cancel()

    def _submit_some(self, waiting: deque[GenerationRequest], streams: deque[GenerationStream]) -> None:
        """As many as our share of the queue and the queue itself allow, but one at least."""
        while waiting and len(streams) < self._max_in_flight:
            try:
                streams.append(self._engine.submit(waiting[0]))
            except QueueFullError:
                if not streams:
                    raise
                return
            waiting.popleft()


def _choice(chunks: openai_api.Chunks, index: int, stream: GenerationStream) -> Iterator[openai_api.Chunk]:
    yield from chunks.opening(index)
    for event in stream:
        if event.text:
            yield chunks.delta(index, event.text)
    yield chunks.finish(index, stream.result().finish_reason)


def _grouped(outputs: Sequence[GenerationOutput], size: int) -> list[Sequence[GenerationOutput]]:
    return [outputs[i : i + size] for i in range(0, len(outputs), size)]


def _nth_seed(seed: int, n: int) -> int:
    """Choices differ, and the largest seed has neighbours too: 64 bits wrap around."""
    return (seed + n + 2**63) % 2**64 - 2**63

"""Where OpenAI's API and the engine meet: requests to generation requests, outputs to answers.

Used by pyfunc's `predict` and, as it is, by the routes of a server.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_llm_plugins import openai_api
from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation import (
    Constraint,
    GenerationEngine,
    GenerationOutput,
    GenerationRequest,
    TokenScores,
)
from mlflow_llm_plugins.generation.call_scope import current_scope
from mlflow_llm_plugins.openai_api.fields import named
from mlflow_llm_plugins.quantized_llm.batch import numbered
from mlflow_llm_plugins.quantized_llm.inputs import Row
from mlflow_llm_plugins.quantized_llm.prompts import PromptEncoder
from mlflow_llm_plugins.quantized_llm.record import Task
from mlflow_llm_plugins.quantized_llm.template import CHAT

_logger = logging.getLogger(__name__)

_SCORED_AT_ONCE = 8192  # tokens


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks the engine for."""

    is_chat: bool
    options: openai_api.RequestOptions
    prompts: Sequence[list[int]]  # token ids
    requests: Sequence[GenerationRequest]  # one for each choice, prompt by prompt; none where nothing is generated
    echoes: Sequence[openai_api.Echo] = ()  # of each prompt, where answers begin with it

    @property
    def is_scored(self) -> bool:
        """Whether the tokens of the prompts are to be scored, which `Completions.echoed` does.

        Also where nothing else is asked for: no engine would have looked at the prompts.
        """
        return _echo_of(self.options) and ("top_logprobs" in self.options.sampling or not self.requests)

    def with_requests(self, requests: Sequence[GenerationRequest]) -> Work:
        """The same work by other requests, one in place of each."""
        return replace(self, requests=requests)


class Completions:
    """Chats and completions of one model; safe to use from many threads."""

    def __init__(
        self,
        engine: GenerationEngine,
        *,
        model_name: str,
        task: Task,
        generation_config: Mapping[str, Any] | None = None,
        prompt_template: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Take the engine's tokenizer; for the rest see `QuantizedLLMPyfunc`."""
        self.engine = engine
        self.model_name = model_name
        context = engine.stats().max_context_length
        self._prompts = PromptEncoder.for_context(engine.tokenizer, task, prompt_template, chat_template, context)
        self._token_texts = openai_api.TokenTexts(engine.tokenizer)
        self._defaults = openai_api.sampling_defaults(generation_config or {})
        if ignored := openai_api.unhonoured(generation_config or {}):
            _logger.warning(
                "Answers are made without %s: the model's generation_config has it, the engine does not support it.",
                named(ignored),
            )

    def chat(self, body: Mapping[str, Any]) -> Work:
        """Read a chat.

        Raises:
            InvalidInputError: Names the field, what is allowed and the value.
        """
        chat = openai_api.ChatCompletionRequest.parse(body)
        return self._work(True, chat, [self._prompts.of_request(chat)])

    def completion(self, body: Mapping[str, Any]) -> Work:
        """Read a completion; raises as `chat` does."""
        completion = openai_api.CompletionRequest.parse(body)
        return self._work(False, completion, [self._prompts.raw(prompt) for prompt in completion.prompts])

    def rows(self, rows: Sequence[Row], params: Mapping[str, Any]) -> Work:
        """Read rows, which get one text each; raises as `chat` does, with the number of the row."""
        options = openai_api.RequestOptions.parse(params)
        if options.n > 1:
            raise UnsupportedFeatureError(
                f"n={options.n} is not supported for rows, which get one text each; "
                "for several answers send a dict with messages or prompt."
            )
        prompts = []
        for i, row in enumerate(rows):
            with numbered("row", i, len(rows)):
                prompts.append(self._prompts.row(row))
        return self._work(self._prompts.task == CHAT, options, prompts)

    def render(
        self, messages: Sequence[openai_api.Message], template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation, up to where its answer begins."""
        return self._prompts.chat(messages, template_kwargs)

    def echoed(self, work: Work) -> Work:
        """The work with its prompts as answers repeat them, where they do; may score them, which takes a while.

        Raises:
            LLMError: As `GenerationEngine.score`.
        """
        if not _echo_of(work.options):
            return work
        scores: Sequence[TokenScores | None] = [None] * len(work.prompts)
        if work.is_scored:
            scores = [
                row
                for prompts in _in_parts(work.prompts)
                for row in self.engine.score(prompts, work.options.sampling.get("top_logprobs", 0))
            ]
        pairs = zip(work.prompts, scores, strict=True)
        return replace(work, echoes=[openai_api.Echo.of(self.engine.tokenizer, *pair) for pair in pairs])

    def answer(self, work: Work, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
        """The whole answer, of the outputs of all of the work's requests in their order."""
        choices, texts = _choices(work, outputs), self._texts_for(work)
        if work.is_chat:
            parsing = self._parsing(work)
            return openai_api.chat_completion(self.model_name, choices[0], token_texts=texts, parsing=parsing)
        return openai_api.text_completion(self.model_name, choices, token_texts=texts, echoes=work.echoes or None)

    def chunks(self, work: Work) -> openai_api.Chunks:
        """What builds the answer in pieces."""
        name, with_usage, texts = self.model_name, work.options.include_usage, self._texts_for(work)
        if work.is_chat:
            return openai_api.ChatChunks(name, with_usage, token_texts=texts, parsing=self._parsing(work))
        echoes = [echo for echo in work.echoes for _ in range(work.options.n)]
        return openai_api.CompletionChunks(name, with_usage, token_texts=texts, echoes=echoes)

    def scored_only(self, chunks: openai_api.Chunks, work: Work) -> Iterator[openai_api.Chunk]:
        """The chunks of choices for which nothing is generated; none where something is."""
        for index in range(0 if work.requests else len(work.prompts) * work.options.n):
            choice = chunks.choice(index)
            yield from choice.opening()
            yield from choice.finish("length")

    def closing(
        self, chunks: openai_api.Chunks, work: Work, outputs: Sequence[GenerationOutput]
    ) -> list[openai_api.Chunk]:
        """The last chunks of a stream."""
        return chunks.closing(_choices(work, outputs))

    def _texts_for(self, work: Work) -> openai_api.TokenTexts | None:
        """Where log-probabilities were asked for."""
        return self._token_texts if "top_logprobs" in work.options.sampling else None

    def _parsing(self, work: Work) -> openai_api.ResponseParsing | None:
        """How an answer to a chat is read; rows are answered with the text as it was written."""
        if not isinstance(work.options, openai_api.ChatCompletionRequest):
            return None
        tokenizer, tools = self.engine.tokenizer, work.options.tools
        max_calls = None if work.options.parallel_tool_calls else 1
        return openai_api.ResponseParsing.of(tokenizer, self._token_texts, work.prompts[0], tools, max_calls)

    def _work(self, is_chat: bool, options: openai_api.RequestOptions, prompts: Sequence[list[int]]) -> Work:
        return Work(is_chat, options, prompts, self._generation_requests(options, prompts))

    def _generation_requests(
        self, options: openai_api.RequestOptions, prompts: Sequence[list[int]]
    ) -> list[GenerationRequest]:
        if isinstance(options, openai_api.CompletionRequest) and options.score_only:
            return []
        sampling = openai_api.with_defaults(options.sampling, self._defaults)
        seed = sampling.pop("seed", None)
        if "constraint" in sampling:
            sampling["constraint"] = Constraint(*sampling["constraint"])
        return [
            GenerationRequest(prompt_ids=ids, seed=None if seed is None else _nth_seed(seed, i), **sampling)
            for ids in prompts
            for i in range(options.n)
        ]


def _in_parts(prompts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Prompts that are scored in one call, between which a caller who is gone is noticed."""
    part: list[list[int]] = []
    for prompt in prompts:
        part.append(prompt)
        if sum(map(len, part)) >= _SCORED_AT_ONCE:
            current_scope().raise_if_cancelled()
            yield part
            part = []
    if part:
        yield part


def _echo_of(options: openai_api.RequestOptions) -> bool:
    return isinstance(options, openai_api.CompletionRequest) and options.echo


def _choices(work: Work, outputs: Sequence[GenerationOutput]) -> list[Sequence[openai_api.Generated]]:
    """The answers to each prompt."""
    n = work.options.n
    if not work.requests:
        return [[openai_api.NothingGenerated(len(ids))] * n for ids in work.prompts]
    return [outputs[i : i + n] for i in range(0, len(outputs), n)]


def _nth_seed(seed: int, n: int) -> int:
    """Choices differ, and the largest seed has neighbours too: 64 bits wrap around."""
    return (seed + n + 2**63) % 2**64 - 2**63

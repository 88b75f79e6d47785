"""The routes of typed decisions: questions answered by the probabilities of their labels, without generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlflow_llm_plugins.errors import (
    PromptTooLongError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.openai_api.decisions import (
    DecisionLimits,
    DecisionRequest,
    decisions_answer,
    label_ids,
    parse_decisions,
    parse_systemone,
    question_chats,
    systemone_answer,
)
from mlflow_llm_plugins.serving.bodies import check_headers
from mlflow_llm_plugins.serving.disconnects import unless_disconnected
from mlflow_llm_plugins.serving.limits import check_prompts, check_scored
from mlflow_llm_plugins.serving.server import Server, trace_of
from mlflow_llm_plugins.serving.tracing import RequestTrace

Parse = Callable[[object, DecisionLimits], DecisionRequest]
Build = Callable[..., dict[str, Any]]

_THOUGHT_TOKENS = 16  # at the end of a prompt, in which a template may open a thought


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as the engine reads it."""

    request: DecisionRequest
    stems: Sequence[list[int]]
    tails: Sequence[Sequence[list[int]]]  # one a label, behind each stem

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts, what they begin with in common counted once; the same on a warm cache."""
        total, before = 0, list[int]()
        for stem in sorted(self.stems):
            total += len(stem) - _common_length(before, stem)
            before = stem
        return total


class Decisions:
    """Answers `/v1/systemone` and `/v1/decisions`."""

    def __init__(self, server: Server, temperatures: Mapping[str, float]) -> None:
        """On this server, with the model's own temperature for each type of question."""
        self._server = server
        self._temperatures = temperatures
        settings = server.settings
        self._limits = DecisionLimits(
            max_questions=settings.max_questions, max_options=settings.max_options, max_levels=settings.max_levels
        )

    async def systemone(self, request: Request) -> Response:
        """`POST /v1/systemone`."""
        return await self._answer(request, parse_systemone, systemone_answer)

    async def decisions(self, request: Request) -> Response:
        """`POST /v1/decisions`."""
        return await self._answer(request, parse_decisions, decisions_answer)

    async def _answer(self, request: Request, parse: Parse, build: Build) -> Response:
        check_headers(request.headers)
        raw = await self._server.body(request)
        scored = self._scored(raw, parse, build, trace_of(request))
        return JSONResponse(await unless_disconnected(request, scored, self._server.time_limit))

    async def _scored(self, raw: bytes, parse: Parse, build: Build, trace: RequestTrace) -> dict[str, Any]:
        loop, readers = asyncio.get_running_loop(), self._server.readers
        prepared = await loop.run_in_executor(readers, partial(self._prepare, raw, parse))
        scores = await self._server.chooser.choose(prepared.stems, prepared.tails)
        self._server.metrics.decided(len(scores), prepared.input_tokens)
        trace.spent(prepared.input_tokens)
        name = self._server.completions.model_name
        return build(name, prepared.request, scores, prepared.input_tokens, self._temperatures)

    def _prepare(self, raw: bytes, parse: Parse) -> _Prepared:
        """Read and tokenise; stops at the first question that is too much."""
        request = parse(self._server.json(raw), self._limits)
        tokenizer = self._server.engine.tokenizer
        stems, tails, prompts = [], [], list[list[int]]()
        for question, chat in zip(
            request.questions, question_chats(request, self._server.settings.decision_layout), strict=True
        ):
            prompt = self._server.completions.render(chat, {"enable_thinking": False})
            self._check(prompt)
            prompts.append(prompt)
            check_scored(prompts, self._server.settings)
            ids = label_ids(tokenizer, prompt, question.labels)
            stems.append(ids.stem)
            tails.append(ids.tails)
        return _Prepared(request, stems, tails)

    def _check(self, prompt: list[int]) -> None:
        check_prompts([prompt], self._server.settings)
        context = self._server.engine.stats().max_context_length
        if len(prompt) >= context:
            raise PromptTooLongError(
                f"A question has {len(prompt)} tokens with its state; the context has {context}. Shorten the state."
            )
        end = self._server.engine.tokenizer.decode(prompt[-_THOUGHT_TOKENS:])
        if end.rfind("<think>") > end.rfind("</think>"):
            raise UnsupportedFeatureError(
                "This model's chat template opens a thought before each answer, also with enable_thinking=false: what "
                "the model would answer cannot be read from its next token."
            )


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)

"""Answers as an engine gives them, of tokens that a test chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_llm_plugins.generation import GenerationOutput, GenerationRequest, TokenEvent
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.requests import Pick
from mlflow_llm_plugins.generation.stream import TokenStream


def made_answer(
    tokenizer: Any,
    token_ids: Sequence[int],
    *,
    prompt_ids: Sequence[int] = (5,),
    stop: tuple[str, ...] = (),
    top_logprobs: int | None = None,
) -> tuple[GenerationOutput, list[TokenEvent]]:
    """The whole answer and its tokens as they come; `token_ids` go on after it where it ends early.

    The i-th token has the log-probability -i - 1, and the tokens 3, 4, ... are better ones.
    """
    request = AdmittedRequest(
        options=GenerationRequest(prompt_ids, stop=stop, top_logprobs=top_logprobs),
        prompt_ids=list(prompt_ids),
        max_new_tokens=len(token_ids),
        eos_token_ids=frozenset([tokenizer.eos_token_id]),
        timeout_s=60,
    )
    stream = TokenStream(request, tokenizer, on_end=lambda _: None)
    for i, token_id in enumerate(token_ids):
        best = tuple((3 + rank, -0.1 * (rank + 1)) for rank in range(top_logprobs or 0))
        stream.push(Pick(token_id, None if top_logprobs is None else -1.0 - i, best))
    return stream.result(), list(stream)

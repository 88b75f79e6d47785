"""What the engine and its child process say to each other: plain values that are pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# -- to the child -------------------------------------------------------------------------------------------


class PipelineArguments(NamedTuple):
    """How the pipeline is built."""

    folder: str  # of the IR
    num_blocks: int  # of the KV cache
    max_rows: int
    max_batch_tokens: int
    prefix_caching: bool
    properties: Mapping[str, Any]  # of the CPU plugin


class Start(NamedTuple):
    """A request joins."""

    request_id: int
    prompt_ids: list[int]
    fields: Mapping[str, Any]  # of its GenerationConfig, see `request_fields`


class End(NamedTuple):
    """Nobody wants the rest of an answer."""

    request_id: int


# -- from the child -----------------------------------------------------------------------------------------


class Ready(NamedTuple):
    """The model is loaded and has answered once."""

    cache_bytes: int  # of the KV cache, as the library tells


class Tokens(NamedTuple):
    """What one request got in a step."""

    request_id: int
    token_ids: list[int]
    logprobs: list[float] | None
    is_last: bool  # the library has finished the request
    is_complete: bool  # at an end token, not for its length


class Refusal(NamedTuple):
    """A request that the library does not take, or gave up."""

    request_id: int
    reason: str


class Step(NamedTuple):
    """The outcome of one step; an empty one says that messages have been taken."""

    number: int  # steps done since the child started
    tokens: list[Tokens]
    refusals: list[Refusal]
    taken: int  # messages that had been taken before it, since the child started


class Failed(NamedTuple):
    """The last message of a child whose pipeline is broken."""

    reason: str

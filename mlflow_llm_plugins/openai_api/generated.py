"""What answers are made from, whoever generated it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Alternatives = Sequence[tuple[int, float]]  # token ids and log-probabilities, the most probable first


class Generated(Protocol):
    """A finished answer."""

    @property
    def text(self) -> str:
        """The answer without special tokens."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, without padding."""

    @property
    def cached_tokens(self) -> int | None:
        """Those of the prompt's tokens that did not have to be computed; None: the engine does not know."""

    @property
    def completion_tokens(self) -> int:
        """Generated tokens."""

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""

    @property
    def token_ids(self) -> Sequence[int]:
        """All generated tokens, an end token included."""

    @property
    def logprobs(self) -> Sequence[float]:
        """One for each token, where they were asked for."""

    @property
    def top_logprobs(self) -> Sequence[Alternatives]:
        """One for each token, where they were asked for."""


class GeneratedToken(Protocol):
    """One token of an answer, while it is made."""

    @property
    def token_id(self) -> int:
        """The token."""

    @property
    def text(self) -> str:
        """The text of the answer that became certain with it."""

    @property
    def logprob(self) -> float | None:
        """Where it was asked for."""

    @property
    def top_logprobs(self) -> Alternatives:
        """Where they were asked for."""


class ScoredToken(NamedTuple):
    """One token, and how probable it was."""

    token_id: int
    logprob: float | None  # None: the first token of a text
    top_logprobs: Alternatives = ()

    @classmethod
    def of(cls, token: GeneratedToken) -> ScoredToken:
        """The token of a stream."""
        return cls(token.token_id, token.logprob, token.top_logprobs)


@dataclass(frozen=True, slots=True)
class NothingGenerated:
    """The answer to a completion that asks for no new tokens."""

    prompt_tokens: int
    text: str = ""
    cached_tokens: int | None = 0
    completion_tokens: int = 0
    finish_reason: str = "length"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[Alternatives, ...] = ()


def scored_tokens(answer: Generated) -> list[ScoredToken]:
    """The tokens of an answer whose log-probabilities were asked for."""
    alternatives = answer.top_logprobs or [()] * len(answer.token_ids)
    return [ScoredToken(*token) for token in zip(answer.token_ids, answer.logprobs, alternatives, strict=True)]

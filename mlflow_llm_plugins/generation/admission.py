"""What may join the shared batch: everything that would kill, starve or never leave it is refused here."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlflow_llm_plugins.errors import InvalidInputError, PromptTooLongError
from mlflow_llm_plugins.generation.features import FeatureCheck
from mlflow_llm_plugins.generation.requests import Constraint, GenerationRequest

if TYPE_CHECKING:
    from mlflow_llm_plugins.generation.sampling.constraints import ConstraintMatcher

DEFAULT_TIMEOUT_S = 3600.0


class ConstraintReader(Protocol):
    """Understands constraints before their requests join; thread-safe."""

    def matcher(self, constraint: Constraint, eos_token_ids: frozenset[int]) -> ConstraintMatcher | None:
        """What follows an answer in its form, at the beginning of one; None where the library behind does that.

        Raises:
            UnsupportedFeatureError: Names what the form has that cannot be honoured, and why.
            InvalidInputError: The form itself is wrong.
        """


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request with every default filled in, sure to fit."""

    options: GenerationRequest  # what was asked for
    prompt_ids: list[int]
    max_new_tokens: int
    eos_token_ids: frozenset[int]  # every token that ends the answer
    timeout_s: float
    matcher: ConstraintMatcher | None = None  # the constraint, at the beginning of the answer


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of one engine, and the check of a request against them."""

    vocab_size: int  # a token id must be below it: it has an embedding and a logit
    max_context_length: int  # tokens of prompt and answer together
    cache_tokens: int | None  # tokens of the whole KV cache; None where nothing is allocated ahead
    max_new_tokens: int  # of a request that names neither a limit nor a default
    eos_token_ids: frozenset[int]  # the model's own; those outside the vocabulary can never come, and are left out
    timeout_s: float
    constraints: ConstraintReader
    features: FeatureCheck

    @property
    def longest_request(self) -> int:
        """Tokens, prompt and answer together, of the longest request that fits context and cache."""
        return min(self.max_context_length, self.cache_tokens or self.max_context_length)

    def admit(self, request: GenerationRequest) -> AdmittedRequest:
        """Check a request and fill in the defaults.

        Raises:
            InvalidInputError: An empty prompt, or a token id outside the vocabulary.
            PromptTooLongError: Prompt and answer can never fit.
            UnsupportedFeatureError: The engine cannot do it, or the constraint has something that cannot be honoured.
        """
        self.features.check(request)
        prompt_ids = self.check_ids(request.prompt_ids)
        max_new_tokens = self._room(len(prompt_ids), request)
        self._check_options(request, max_new_tokens)
        eos = self._ends(request)
        return AdmittedRequest(
            options=request,
            prompt_ids=prompt_ids,
            max_new_tokens=max_new_tokens,
            eos_token_ids=eos,
            timeout_s=self.timeout_s if request.timeout_s is None else request.timeout_s,
            matcher=None if request.constraint is None else self.constraints.matcher(request.constraint, eos),
        )

    def _check_options(self, request: GenerationRequest, max_new_tokens: int) -> None:
        if request.min_new_tokens > max_new_tokens:
            raise InvalidInputError(
                f"min_new_tokens={request.min_new_tokens} is more than the {max_new_tokens} tokens that the answer "
                "may have. Lower it, or raise max_new_tokens."
            )
        self._refuse_outsiders("logit_bias", request.logit_bias)
        self._refuse_outsiders("eos_token_ids", request.eos_token_ids or ())
        self._refuse_outsiders("stop_token_ids", request.stop_token_ids)

    def _refuse_outsiders(self, name: str, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            if not self._is_token(token_id):
                raise InvalidInputError(
                    f"{name} names token id {token_id}, which is outside the model's vocabulary of {self.vocab_size}: "
                    f"ids go from 0 to {self.vocab_size - 1}.",
                    param=name,
                )

    def _is_token(self, token_id: int) -> bool:
        return 0 <= token_id < self.vocab_size

    def _ends(self, request: GenerationRequest) -> frozenset[int]:
        """As ints: what runs the model may know no others."""
        if request.eos_token_ids is None:
            named = [token_id for token_id in self.eos_token_ids if self._is_token(token_id)]
        else:
            named = list(request.eos_token_ids)
        return frozenset(int(token_id) for token_id in (*named, *request.stop_token_ids))

    def check_ids(self, ids: Sequence[int]) -> list[int]:
        """The token ids as a list of ints, none outside the vocabulary, at least one."""
        try:
            checked = [operator.index(token_id) for token_id in ids]
        except TypeError as error:
            raise InvalidInputError(f"A prompt is a sequence of token ids, whole numbers: {error}.") from error
        if not checked:
            raise InvalidInputError("The prompt is empty: it needs at least one token.")
        for token_id in (min(checked), max(checked)):
            if not self._is_token(token_id):
                raise InvalidInputError(
                    f"Token id {token_id} is outside the model's vocabulary of {self.vocab_size}: "
                    f"ids go from 0 to {self.vocab_size - 1}.",
                    param="prompt",
                )
        return checked

    def _room(self, prompt_tokens: int, request: GenerationRequest) -> int:
        room, wanted = self.longest_request - prompt_tokens, request.max_new_tokens
        if room < 1:
            raise PromptTooLongError(
                f"The prompt has {prompt_tokens} tokens, but prompt and answer together may have "
                f"{self.longest_request} ({self._limit_name()}). Shorten the prompt."
            )
        if wanted is not None and wanted > room:
            raise PromptTooLongError(
                f"The prompt has {prompt_tokens} tokens and {wanted} new ones are asked for, together more than "
                f"{self.longest_request} ({self._limit_name()}). Ask for at most {room} new tokens."
            )
        if wanted is not None:
            return wanted
        return min(request.default_new_tokens or self.max_new_tokens, room, request.new_tokens_limit or room)

    def _limit_name(self) -> str:
        if self.longest_request < self.max_context_length:
            return "the size of the KV cache; raise num_blocks or kv_cache_memory for more"
        return "the context length of the engine"

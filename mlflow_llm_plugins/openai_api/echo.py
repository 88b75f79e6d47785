"""Prompts that come back as the beginning of their completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlflow_llm_plugins.openai_api.generated import Alternatives, ScoredToken
from mlflow_llm_plugins.openai_api.logprobs import CompletionRows
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts


class PromptScores(Protocol):
    """How probable the tokens of a prompt are, the first one excepted."""

    def __iter__(self) -> Iterator[float]:
        """The log-probabilities of tokens 2 to n."""

    @property
    def top_logprobs(self) -> Sequence[Alternatives]:
        """The best tokens of each of these places; empty where none were asked for."""


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt, as its answers begin with it."""

    text: str  # what the model reads, without special tokens
    tokens: Sequence[ScoredToken] = ()  # where log-probabilities were asked for; the first token has none

    @classmethod
    def of(cls, tokenizer: Any, prompt_ids: Sequence[int], scores: PromptScores | None = None) -> Echo:
        """Put a prompt together.

        Args:
            tokenizer: Not changed.
            prompt_ids: Texts and token ids are echoed alike: decoded from what the model reads.
            scores: Where the request asks for log-probabilities; an engine's `score` gives them.
        """
        text = tokenizer.decode(list(prompt_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cls(text, () if scores is None else _tokens(prompt_ids, scores))

    def rows(self, texts: TokenTexts) -> CompletionRows:
        """The prompt's tokens; those of the answer are added where its text ends."""
        written = b"".join(texts[token.token_id].bytes or b"" for token in self.tokens).decode("utf-8", "replace")
        # some tokenizers drop a space at the start of a text: counted from the end, where the answer begins
        rows = CompletionRows(texts, position=len(self.text) - len(written))
        rows.add(self.tokens)
        return rows


def _tokens(prompt_ids: Sequence[int], scores: PromptScores) -> list[ScoredToken]:
    logprobs = list(scores)
    places = zip(prompt_ids[1:], logprobs, scores.top_logprobs or [()] * len(logprobs), strict=True)
    return [ScoredToken(prompt_ids[0], None), *(ScoredToken(*place) for place in places)]

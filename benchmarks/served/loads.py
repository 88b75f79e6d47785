"""What the servers are asked: chats of made-up words, whose prompts are the same for every contender."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mlflow_llm_plugins.loadtest import Load

Answers = Literal["streams", "whole"]
ANSWERS: tuple[Answers, ...] = ("streams", "whole")
Chat: TypeAlias = list[dict[str, str]]  # messages

NEW_TOKENS = 32
SHORT = "short"
SHORT_WORDS = 40
SHARED = "shared"  # a short prompt behind a system prompt that all have in common
SHARED_WORDS = 200
ROUNDS = 4  # requests of each client
FEWEST_REQUESTS = 16


@dataclass(frozen=True, slots=True)
class ServedLoad:
    """Requests in one rhythm with prompts of one length: a closed loop of clients, or an open one at a rate."""

    prompts: str  # SHORT, SHARED, or how many tokens
    answers: Answers
    requests: int
    clients: int | None = None
    rate: float | None = None  # requests a second

    @property
    def rhythm(self) -> str:
        if self.clients is None:
            return f"{self.rate:g} requests/s"
        return f"{self.clients} client{'s' if self.clients > 1 else ''}"

    def as_load(self, ignore_eos: bool) -> Load:
        """For the load generator."""
        return Load(
            clients=self.clients,
            rate=self.rate,
            requests=self.requests,
            max_tokens=NEW_TOKENS,
            ignore_eos=ignore_eos,
        )


def loads_of(
    prompts: Sequence[str],
    clients: Sequence[int],
    rate: float | None,
    requests: int | None,
    answers: Sequence[Answers] = ANSWERS,
) -> Iterator[ServedLoad]:
    """Every length of prompts in every rhythm, by default first as streams, then as whole answers.

    Args:
        prompts: SHORT, SHARED, or numbers of tokens.
        clients: Of the closed loops.
        rate: Of the open loop, requests a second; None: there is none.
        requests: Of each load; None: enough for `ROUNDS` of each client, as many for the open loop as for the largest.
        answers: Kinds of them.
    """
    counts = [requests or max(FEWEST_REQUESTS, ROUNDS * number) for number in clients]
    for length in prompts:
        for kind in answers:
            for number, count in zip(clients, counts, strict=True):
                yield ServedLoad(length, kind, count, clients=number)
            if rate is not None:
                yield ServedLoad(length, kind, max(counts), rate=rate)


@dataclass(frozen=True, slots=True)
class Wording:
    """What prompts are made of, written beside the checkpoint."""

    words: tuple[str, ...]  # each a token of the vocabulary when a space is before it
    template_tokens: int  # that the chat template adds to a message of the user
    system_tokens: int  # and to a system message before it

    @classmethod
    def read(cls, path: Path) -> Wording:
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**found, "words": tuple(found["words"])})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def prompt_tokens(self, length: str) -> int:
        """With the template's."""
        if length == SHARED:
            return SHARED_WORDS + self.system_tokens + self.prompt_tokens(SHORT)
        return SHORT_WORDS + self.template_tokens if length == SHORT else int(length)

    def prompts(self, load: ServedLoad) -> list[Chat]:
        """One for each request, random from the first word and others for each load: no prefix cache helps anybody.

        With SHARED all loads begin with the same system prompt, so that it does.
        """
        draw = random.Random(repr(load))
        return self._draw(draw, load.prompts, load.requests)

    def warm_up(self, length: str, count: int) -> list[Chat]:
        """Prompts that no load has."""
        return self._draw(random.Random("warm-up"), length, count)

    def _draw(self, draw: random.Random, length: str, count: int) -> list[Chat]:
        words = self.prompt_tokens(SHORT if length == SHARED else length) - self.template_tokens
        if words < 1:
            raise ValueError(
                f"prompts must have more than {self.template_tokens} tokens, the template's, got {length}."
            )
        before = [self._system_prompt()] if length == SHARED else []
        texts = (" ".join(draw.choices(self.words, k=words)) for _ in range(count))
        return [[*before, {"role": "user", "content": text}] for text in texts]

    def _system_prompt(self) -> dict[str, str]:
        words = random.Random("system prompt").choices(self.words, k=SHARED_WORDS)
        return {"role": "system", "content": " ".join(words)}

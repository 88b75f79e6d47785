"""What the engines are asked to do: prompts of random tokens, the same for every contender."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BATCH_ROWS = 16
DECODE_STEPS = 24  # so many at least in which all rows decode
_PREFILLED_A_STEP = 200  # tokens, beside those that decode, with 256 tokens a step

# It cannot end before the steps that are timed are over.
SCHEMA = json.dumps(
    {
        "type": "array",
        "minItems": 100,
        "items": {
            "type": "object",
            "properties": {
                "verdict": {"enum": ["right", "partly right", "wrong"]},
                "score": {"type": "integer", "minimum": 0, "maximum": 10},
                "reason": {"type": "string", "maxLength": 60},
            },
            "required": ["verdict", "score", "reason"],
            "additionalProperties": False,
        },
    }
)
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "temperature, top_p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "temperature 4, top_p 0.9": {"temperature": 4.0, "top_p": 0.9},  # almost even: thousands of tokens to keep
    "temperature, top_k 50": {"temperature": 0.8, "top_k": 50},
    "temperature, repetition penalty": {"temperature": 0.8, "repetition_penalty": 1.1},
    "greedy, top_logprobs 5": {"top_logprobs": 5},
}


@dataclass(frozen=True)
class Load:
    """Requests that arrive together; `options` are fields of a GenerationRequest, the same for all."""

    name: str
    lengths: tuple[tuple[int, int], ...]  # of each request: prompt tokens, new tokens
    rows: int = BATCH_ROWS  # that may generate together
    options: dict[str, Any] = field(default_factory=dict)
    schema: str | None = None  # JSON schema of every answer
    last_is_late: bool = False  # the last request arrives while all others decode

    @property
    def longest(self) -> int:
        """Tokens of prompt and answer together."""
        return max(prompt + new for prompt, new in self.lengths)

    @property
    def new_tokens(self) -> int:
        return sum(new for _, new in self.lengths)

    def prompts(self, vocabulary: int, seed: int = 0) -> list[list[int]]:
        """Token ids; no two prompts begin alike, so that no prefix cache helps anybody."""
        draw = random.Random(seed)
        return [[draw.randrange(1, vocabulary) for _ in range(length)] for length, _ in self.lengths]


@dataclass(frozen=True)
class Sizes:
    """How large the loads are."""

    rows: Sequence[int]
    contexts: Sequence[int]
    quick: bool


def decode(sizes: Sizes) -> list[Load]:
    return [_decoding(rows, context, f"{rows} x {context}") for rows in sizes.rows for context in sizes.contexts]


def prefill(sizes: Sizes) -> list[Load]:
    count, length = (4, 100) if sizes.quick else (16, 1000)
    return [Load(f"{count} x {length} + 8", ((length, 8),) * count)]


def throughput(sizes: Sizes) -> list[Load]:
    count = 16 if sizes.quick else 64
    draw = random.Random(0)
    lengths = tuple((draw.randint(20, 600), draw.randint(8, 64)) for _ in range(count))
    return [Load(f"{count} mixed requests", lengths)]


def sampling(sizes: Sizes) -> list[Load]:
    return [_decoding(BATCH_ROWS, 60, name, options=options) for name, options in SAMPLINGS.items()]


def grammar(sizes: Sizes) -> list[Load]:
    free = {"temperature": 1.0, "seed": 0}
    return [
        _decoding(BATCH_ROWS, 60, "no constraint", options=free),
        _decoding(BATCH_ROWS, 60, "JSON schema", options=free, schema=SCHEMA),
    ]


def interference(sizes: Sizes) -> list[Load]:
    arriving = 500 if sizes.quick else 2000
    streams = ((100, 40 + arriving // 25),) * 4  # they decode on while the last prompt is read, 60 tokens a step
    return [Load(f"4 streams, {arriving} tokens arrive", (*streams, (arriving, 8)), rows=5, last_is_late=True)]


def _decoding(rows: int, context: int, name: str, **how: Any) -> Load:
    new_tokens = DECODE_STEPS + rows * context // _PREFILLED_A_STEP
    return Load(name, ((context, new_tokens),) * rows, rows=rows, **how)


LOADS = {
    "decode": decode,
    "prefill": prefill,
    "throughput": throughput,
    "sampling": sampling,
    "grammar": grammar,
    "interference": interference,
}

"""Judges under test: verdicts read from probabilities, verdicts written as JSON, and MLflow's judge behind a server.

All judge the same rows with the same criteria, rubric and weights. To add one: a function, and a row in `JUDGES`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.evaluated.cases import (
    NUMBERS,
    ROOM,
    VERDICT,
    VERDICT_TOKENS,
    WORDS,
    Cases,
    judging_model,
    judging_tokenizer,
    metric_of,
    questions_of,
    written_prompts,
)
from benchmarks.evaluated.deployed import judge_deployed
from benchmarks.evaluated.job import Figures, Job, Result
from benchmarks.evaluated.stopwatch import Stopwatch
from benchmarks.models import SHAPES

FORWARD, FORWARD_SHARE, VALID, WRITTEN = "forward tokens", "forward / (own + rubric)", "valid", "written tokens"
OWN, RUBRIC = "own tokens of a row", "rubric tokens"
ONE_ORDER = {"bias_correction": "none", "control_rows": False}

Judge = Callable[[Job], Figures]


def judge(job: Job) -> Result:
    return Result(JUDGES[job.contender](job))


@dataclass(slots=True)
class Passes:
    """Counts what goes through the model, padding included, by a hook that its twin has too."""

    tokens: int = 0

    def attach(self, model: Any) -> Any:
        model.register_forward_pre_hook(lambda _, __, inputs: self._seen(inputs["input_ids"]), with_kwargs=True)
        return model

    def _seen(self, ids: Any) -> None:
        self.tokens += ids.numel()


@dataclass(slots=True)
class Opened:
    """An engine that has warmed up, and what is asked of it."""

    engine: Any
    tokenizer: Any
    cases: Cases
    passes: Passes
    watch: Stopwatch = field(default_factory=Stopwatch)

    def figures(self, valid: Sequence[bool], **more: float) -> dict[str, float]:
        return {**self.watch.figures(), FORWARD: float(self.passes.tokens), VALID: sum(valid) / len(valid), **more}

    def ids_of(self, text: str) -> list[int]:
        """As a chat of one message."""
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])


@contextmanager
def opened(job: Job, **settings: Any) -> Iterator[Opened]:
    """An engine with the settings of a user who sets none, but those."""
    from mlflow_llm_plugins.generation import EngineSettings, open_engine

    shape, passes = SHAPES[job.model], Passes()
    tokenizer = judging_tokenizer(shape.vocabulary)
    queue = max(EngineSettings().max_queue_size, job.rows)
    engine = open_engine(
        passes.attach(judging_model(shape)), tokenizer, EngineSettings(max_queue_size=queue, **settings)
    )
    try:
        warm_up(engine, shape.vocabulary)
        passes.tokens = 0
        yield Opened(engine, tokenizer, Cases.of(tokenizer, job.rows), passes)
    finally:
        engine.close()


def warm_up(engine: Any, vocabulary: int) -> None:
    """Two short prompts, which no case begins with, to be continued and to be scored."""
    from mlflow_llm_plugins.generation import GenerationRequest

    draw = random.Random(1)
    prompts = [[draw.randrange(1, vocabulary) for _ in range(16)] for _ in range(2)]
    for stream in [engine.submit(GenerationRequest(prompt, max_new_tokens=4)) for prompt in prompts]:
        stream.result()
    engine.choose(prompts, [[1], [2]])


def judge_by_probabilities(job: Job, rubric: Mapping[str, str], **options: Any) -> Figures:
    """Our judge on an engine of this process."""
    with opened(job) as own:
        metric = metric_of(own.engine, rubric, **options)
        with own.watch.running():
            scores = metric(own.cases.questions, own.cases.answers)
        valid = [choice is not None for choice in scores.columns["choice"]]
        return own.figures(valid, **_forward(own, rubric))


def _forward(own: Opened, rubric: Mapping[str, str]) -> dict[str, float]:
    """What went through the model, to what the rows have of their own and the rubric together."""
    prompts = [own.ids_of(question.text()) for question in questions_of(own.cases, rubric)]
    shared = common_length(prompts) if len(prompts) > 1 else 0
    tokens = sum(len(prompt) - shared for prompt in prompts)
    return {OWN: tokens / len(prompts), RUBRIC: shared, FORWARD_SHARE: own.passes.tokens / (tokens + shared)}


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all begin."""
    differing = (place for place, tokens in enumerate(zip(*prompts, strict=False)) if len(set(tokens)) > 1)
    return next(differing, min(map(len, prompts)))


def judge_by_writing(job: Job, *, prefix_caching: bool) -> Figures:
    """JSON of verdict and reason through the same engine, all rows in flight, of the right form by a constraint."""
    from mlflow_llm_plugins.generation import Constraint, GenerationRequest

    with opened(job, prefix_caching=prefix_caching) as own:
        with own.watch.running():
            requests = [
                GenerationRequest(
                    own.ids_of(text), max_new_tokens=VERDICT_TOKENS + ROOM, constraint=Constraint("regex", VERDICT)
                )
                for text in written_prompts(own.cases)
            ]
            outputs = [stream.result() for stream in [own.engine.submit(request) for request in requests]]
            valid = [is_verdict(output.text) for output in outputs]
        written = sum(output.completion_tokens for output in outputs) / len(outputs)
        return own.figures(valid, **{WRITTEN: written})


def is_verdict(text: str) -> bool:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return False
    return isinstance(found, dict) and str(found.get("score")) in NUMBERS


JUDGES: dict[str, Judge] = {
    "judge": partial(judge_by_probabilities, rubric=NUMBERS, **ONE_ORDER),
    "judge-words": partial(judge_by_probabilities, rubric=WORDS, **ONE_ORDER),  # choices of up to four tokens
    "judge-default": partial(judge_by_probabilities, rubric=NUMBERS),
    "judge-two-orders": partial(judge_by_probabilities, rubric=NUMBERS, bias_correction="two_orders"),
    "json": partial(judge_by_writing, prefix_caching=True),
    "json-uncached": partial(judge_by_writing, prefix_caching=False),
    "genai": partial(judge_deployed, is_constrained=False),
    "genai-constrained": partial(judge_deployed, is_constrained=True),
}
OURS = tuple(name for name in JUDGES if name.startswith("judge"))
RIVALS = tuple(name for name in JUDGES if name not in OURS)

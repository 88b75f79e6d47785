"""A pipeline of the real library that picks any token that a grammar allows, and the texts that it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.generation.openvino.prover.forms import as_library_form
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    Choice,
    Expression,
    OneOf,
    Repeat,
    Rule,
    Sequence,
    Text,
)
from mlflow_llm_plugins.generation.openvino.prover.scratch_model import save_scratch_model
from mlflow_llm_plugins.generation.openvino.prover.text_tokenizer import text_tokenizer
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept

MOST_TOKENS = 300
TEMPERATURES = (0.0, 0.5, 1.0, 2.0)


def save_tokenizer_ir(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write what the engine needs of a tokenizer; the folder."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    for model, name in zip(
        convert_tokenizer(tokenizer, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True
    ):
        openvino.save_model(model, folder / f"openvino_{name}.xml")
    return folder


class GrammarPipeline:
    """Every token is as probable as every other, so that what a grammar allows comes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, folder: Path, vocab_size: int) -> None:
        import openvino_genai

        save_tokenizer_ir(tokenizer, folder)
        save_scratch_model(folder, vocab_size)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks, scheduler.cache_size = 2000, 0
        self.tokenizer = tokenizer
        with signal_stack_kept():
            texts = text_tokenizer(folder).tokenizer
        with signal_stack_kept():
            self.pipeline = openvino_genai.ContinuousBatchingPipeline(
                str(folder), texts, scheduler, "CPU", INFERENCE_NUM_THREADS=1
            )
        self._ids = count()

    def answers(self, constraint: Constraint, end: int, seeds: Iterable[int] = range(24)) -> list[str]:
        """The texts of the answers that came to their end, by greedy and by hot picks."""
        picked = [ids[:-1] for ids in self.token_ids(constraint, end, seeds) if ids[-1] == end]
        return [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in picked]

    def token_ids(self, constraint: Constraint, end: int, seeds: Iterable[int]) -> list[list[int]]:
        import openvino

        handles = []
        for seed in seeds:
            prompt = openvino.Tensor(np.array([[3]], np.int64))
            handles.append(self.pipeline.add_request(next(self._ids), prompt, self._config(constraint, end, seed)))
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
        return [handle.read_all()[0].generated_ids for handle in handles]

    def _config(self, constraint: Constraint, end: int, seed: int) -> Any:
        import openvino_genai

        kind, text = as_library_form(constraint)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = MOST_TOKENS
        config.stop_token_ids = {end}
        config.structured_output_config = openvino_genai.StructuredOutputConfig(**{kind: text})
        if temperature := TEMPERATURES[seed % len(TEMPERATURES)]:
            config.do_sample, config.temperature, config.rng_seed = True, temperature, seed
        return config


def as_python(rules: Mapping[str, Expression], name: str = "root") -> re.Pattern[str]:
    """Rules that do not name themselves, as a regular expression for `fullmatch`."""
    return re.compile(_pattern(rules[name], rules))


def _pattern(expression: Expression, rules: Mapping[str, Expression]) -> str:
    if isinstance(expression, Text):
        return f"(?:{re.escape(expression.text)})"
    if isinstance(expression, OneOf):
        return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in expression.characters.ranges) + "]"
    if isinstance(expression, Sequence):
        return "".join(_pattern(part, rules) for part in expression.parts)
    if isinstance(expression, Choice):
        return "(?:" + "|".join(_pattern(option, rules) for option in expression.options) + ")"
    if isinstance(expression, Repeat):
        most = "" if expression.most is None else expression.most
        return f"(?:{_pattern(expression.part, rules)}){{{expression.least},{most}}}"
    assert isinstance(expression, Rule)
    return _pattern(rules[expression.name], rules)

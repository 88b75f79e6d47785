"""The child process of `GrammarProver`: has grammars compiled for the model's vocabulary, and ends with a bad one."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.library_errors import library_reason
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused
from mlflow_llm_plugins.generation.sampling.forms import shortened

_MEMORY = 4 * 2**30  # bytes that a grammar may take to compile, beside the libraries
_BLOCKS = 4  # of the cache; 32 tokens each
_NEW_TOKENS = 4
_FIRST_VICTIM = "1000"  # /proc/self/oom_score_adj: rather this process than the engine


class Ready(NamedTuple):
    """The pipeline is there."""

    text_ids: frozenset[int]  # tokens that have a text


class Refused(NamedTuple):
    """What the library said; after that the child ends, because the pipeline is dead."""

    reason: str


class Proven(NamedTuple):
    """The grammar can be followed."""


def main(connection: Connection[Any, Any], arguments: tuple[str, int]) -> None:
    """Prove grammars until one is bad or the parent goes.

    Args:
        connection: Gets `Ready`, then for each grammar `Proven` or, as the last message, `Refused`.
        arguments: The model's folder and the width of its logits.
    """
    folder, vocab_size = arguments
    _be_expendable()
    try:
        pipeline, text_ids = _scratch_pipeline(Path(folder), vocab_size)
    except UnsupportedFeatureError as error:
        connection.send(Refused(str(error)))
        return
    connection.send(Ready(text_ids))
    for number in count():
        ebnf, end_token_id = connection.recv()
        try:
            _prove(pipeline, number, ebnf, end_token_id)
        except (RuntimeError, MemoryError) as error:
            reason = library_reason(error) if str(error) else "it needs too much memory"
            connection.send(Refused(shortened(reason)))
            return
        connection.send(Proven())


def _be_expendable() -> None:
    """A grammar that grows without end must end this process, and no other."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text(_FIRST_VICTIM, encoding="ascii")


def _scratch_pipeline(folder: Path, vocab_size: int) -> tuple[Any, frozenset[int]]:
    with telemetry_refused():
        import openvino_genai

        from mlflow_llm_plugins.generation.openvino.prover.scratch_model import save_scratch_model
        from mlflow_llm_plugins.generation.openvino.prover.text_tokenizer import text_tokenizer

    texts = text_tokenizer(folder)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.cache_size = _BLOCKS, 0
    with TemporaryDirectory(prefix="mlflow-llm-prover-") as name:
        save_scratch_model(Path(name), vocab_size)
        pipeline = openvino_genai.ContinuousBatchingPipeline(
            name, texts.tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=1
        )
    return pipeline, texts.text_ids


def _prove(pipeline: Any, number: int, ebnf: str, end_token_id: int) -> None:
    """Have a few tokens made under the grammar; the first step compiles it."""
    import numpy as np
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = _NEW_TOKENS
    config.stop_token_ids = {end_token_id}
    config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=ebnf)
    handle = pipeline.add_request(number, openvino.Tensor(np.zeros((1, 1), np.int64)), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    del handle

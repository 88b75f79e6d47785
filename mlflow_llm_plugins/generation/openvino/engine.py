"""The engine `openvino` on the folder of an IR."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation.admission import DEFAULT_TIMEOUT_S, Admission
from mlflow_llm_plugins.generation.cache_plan import CachePlan
from mlflow_llm_plugins.generation.context import context_length
from mlflow_llm_plugins.generation.encoding import refuse_slow_tokenizer
from mlflow_llm_plugins.generation.features import FeatureCheck
from mlflow_llm_plugins.generation.openvino.cpu_properties import cpu_properties
from mlflow_llm_plugins.generation.openvino.limits import OPENVINO_LIMITS
from mlflow_llm_plugins.generation.openvino.memory import plan_beside_weights
from mlflow_llm_plugins.generation.openvino.messages import PipelineArguments
from mlflow_llm_plugins.generation.openvino.model_folder import ModelFolder
from mlflow_llm_plugins.generation.openvino.prover import GrammarProver
from mlflow_llm_plugins.generation.openvino.runner import BLOCK_TOKENS, NAME, OpenVINORunner
from mlflow_llm_plugins.generation.openvino.scorer import OpenVINOScorer
from mlflow_llm_plugins.generation.runner_engine import RunnerEngine
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.hardware import available_memory_bytes

_logger = logging.getLogger(__name__)

_PROOF_S = 2.0  # that a form may take to prepare; the pipeline does it once more, and answers stand still meanwhile
_BATCH_TOKENS = 256  # of a step, where nothing is set: a longer one holds up the answers beside a prompt
_PREFIX_SHARE = 0.25  # what beginnings kept by `choose` may take, of the KV cache's size and beside it
# What the library computes in where it keeps keys and values in these; the others go with all of them.
_PRECISIONS_WITH: Mapping[str, tuple[str | None, ...]] = {"f32": ("f32",), "bf16": ("bf16", None)}
_LOADING_S = 120.0  # for a small model on a busy machine
_LOADED_BYTES_PER_S = 20e6  # of a slow disk


def open_openvino(model: str | Path, tokenizer: Any, settings: EngineSettings) -> RunnerEngine:
    """Start the engine and wait until it has answered once.

    Args:
        model: The folder of an IR: openvino_model.xml and .bin, config.json, generation_config.json, and for
            constrained answers the IR of its tokenizer.
        tokenizer: Its tokenizer, a fast one.
        settings: Those for torch have no effect.

    Raises:
        InvalidInputError: The tokenizer is a slow one, or the library does not have the page size or the precisions.
        CheckpointError: The folder is not complete, or the library cannot run what is in it.
        HardwareError: Not enough memory, or no POSIX system.
    """
    refuse_slow_tokenizer(tokenizer)
    _refuse_settings(settings)
    folder = ModelFolder.read(model)
    cache = _plan_cache(folder, settings)
    prover = GrammarProver(folder.path, folder.ir.vocab_size, timeout_s=min(_PROOF_S, settings.step_timeout_s / 4))
    admission = _admission(folder, tokenizer, settings, cache, prover)
    scorer = _scorer(folder, settings, cache)
    runner = OpenVINORunner(
        _pipeline_arguments(folder, settings, cache), _LOADING_S + folder.weight_bytes / _LOADED_BYTES_PER_S
    )
    _logger.info("OpenVINO with a KV cache of %s, context %d tokens.", cache, admission.max_context_length)
    return RunnerEngine(runner, tokenizer, admission, scorer, settings, prover.close)


def _admission(
    folder: ModelFolder, tokenizer: Any, settings: EngineSettings, cache: CachePlan, prover: GrammarProver
) -> Admission:
    return Admission(
        vocab_size=folder.vocab_size(),
        max_context_length=context_length(folder.config, settings),
        cache_tokens=cache.tokens,
        max_new_tokens=settings.max_new_tokens,
        eos_token_ids=folder.end_token_ids(tokenizer),
        timeout_s=settings.request_timeout_s or DEFAULT_TIMEOUT_S,
        constraints=prover,
        features=FeatureCheck(NAME, OPENVINO_LIMITS),
    )


def _scorer(folder: ModelFolder, settings: EngineSettings, cache: CachePlan) -> OpenVINOScorer:
    return OpenVINOScorer(
        folder.path,
        # Not the library's u8, which moves the log-probabilities of a float32 model by 0.003 on average, up to 0.07.
        cpu_properties(folder.ir, settings, settings.kv_cache_precision or "f32"),
        max_length=context_length(folder.config, settings),
        max_cached_tokens=int(_PREFIX_SHARE * cache.bytes / folder.kv_bytes_per_token("f32")),  # as states are given
    )


def _pipeline_arguments(folder: ModelFolder, settings: EngineSettings, cache: CachePlan) -> PipelineArguments:
    rows = settings.max_requests_per_batch
    return PipelineArguments(
        folder=str(folder.path),
        num_blocks=cache.num_blocks,
        max_rows=rows,
        max_batch_tokens=max(settings.max_batch_tokens or _BATCH_TOKENS, rows),
        prefix_caching=settings.prefix_caching,
        properties=cpu_properties(folder.ir, settings, settings.kv_cache_precision),
    )


def _plan_cache(folder: ModelFolder, settings: EngineSettings) -> CachePlan:
    return plan_beside_weights(
        settings,
        context_length(folder.config, settings),
        folder.kv_bytes_per_token(settings.kv_cache_precision),
        weight_bytes=folder.weight_bytes,
        available=available_memory_bytes(),
    )


def _refuse_settings(settings: EngineSettings) -> None:
    if settings.page_size != BLOCK_TOKENS:
        raise InvalidInputError(
            f"page_size={settings.page_size}: on CPUs OpenVINO's cache has pages of {BLOCK_TOKENS} tokens and no "
            "others. Leave page_size out."
        )
    kept, computed = settings.kv_cache_precision, settings.inference_precision
    if kept is not None and computed not in _PRECISIONS_WITH.get(kept, (computed,)):
        raise InvalidInputError(
            f"kv_cache_precision={kept!r} needs inference_precision={kept!r} beside it, got {computed!r}."
        )

"""The engine on transformers: continuous batching where that is right for the model, else padded `generate`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mlflow_llm_plugins.generation.admission import DEFAULT_TIMEOUT_S, Admission
from mlflow_llm_plugins.generation.architecture import (
    end_token_ids,
    is_exact,
    logits_width,
    refuse_other_tasks,
    text_config,
    vocabulary_size,
    why_not_paged,
)
from mlflow_llm_plugins.generation.cache_plan import CachePlan, plan_cache
from mlflow_llm_plugins.generation.context import context_length
from mlflow_llm_plugins.generation.continuous import USABLE_PAGES, ContinuousRunner, batch_tokens
from mlflow_llm_plugins.generation.cpu.allocator import tune_allocator
from mlflow_llm_plugins.generation.cpu.attention import can_attend_per_request
from mlflow_llm_plugins.generation.cpu.openmp import own_workers_released
from mlflow_llm_plugins.generation.cpu.packed_linear import pack_linear_layers
from mlflow_llm_plugins.generation.cpu.step_threads import StepThreads
from mlflow_llm_plugins.generation.cpu.threads import set_threads
from mlflow_llm_plugins.generation.encoding import refuse_slow_tokenizer
from mlflow_llm_plugins.generation.engines import ENGINES
from mlflow_llm_plugins.generation.features import FeatureCheck
from mlflow_llm_plugins.generation.padded import PaddedRunner
from mlflow_llm_plugins.generation.probe import probe_failure
from mlflow_llm_plugins.generation.runner_engine import RunnerEngine
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler
from mlflow_llm_plugins.generation.scoring.scorer import Scorer
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.softcap import support_softcap
from mlflow_llm_plugins.generation.twin import CacheShape, inspect_cache, make_twin
from mlflow_llm_plugins.generation.versions import warn_if_untested
from mlflow_llm_plugins.hardware import available_memory_bytes

_logger = logging.getLogger(__name__)

_PREFIX_SHARE = 0.25  # what beginnings kept by `choose` may take, of the KV cache's size and beside it


def open_continuous(model: Any, tokenizer: Any, settings: EngineSettings) -> RunnerEngine:
    """The engine on continuous batching where that is right for the model, else on padded `generate`."""
    with _prepared(model, tokenizer, settings) as step_threads:
        shape = inspect_cache(model)
        twin = make_twin(model)
        reason = why_not_paged(model)
        if reason is None:
            opened = _try_continuous(model, twin, tokenizer, settings, shape, step_threads)
            if isinstance(opened, RunnerEngine):
                return opened
            reason = opened
        _logger.warning("Generation runs in padded batches instead of continuous batching: %s.", reason.rstrip("."))
        # A failed try can leave its marks on the model, not on the twin.
        return _open_padded(twin, tokenizer, settings, shape, step_threads)


def open_padded(model: Any, tokenizer: Any, settings: EngineSettings) -> RunnerEngine:
    """The engine on padded `generate`, for any causal model."""
    with _prepared(model, tokenizer, settings) as step_threads:
        return _open_padded(model, tokenizer, settings, inspect_cache(model), step_threads)


@contextmanager
def _prepared(model: Any, tokenizer: Any, settings: EngineSettings) -> Iterator[StepThreads]:
    """Check the parts and set up process and model; the engine that is opened inside closes the workers."""
    refuse_other_tasks(model)
    refuse_slow_tokenizer(tokenizer)
    warn_if_untested()
    set_threads(settings.num_threads)
    if settings.tune_allocator and model.device.type == "cpu":
        tune_allocator()
    model.eval()
    step_threads = StepThreads(settings.spin_threads, model.device.type)
    try:
        with own_workers_released():
            pack_linear_layers(model, settings.packed_weights)
            yield step_threads
        step_threads.begin()
    except BaseException:
        step_threads.close()
        raise


def _open_padded(
    model: Any, tokenizer: Any, settings: EngineSettings, shape: CacheShape, step_threads: StepThreads
) -> RunnerEngine:
    admission = _admission(model, tokenizer, settings, cache_tokens=None)
    context = admission.max_context_length
    scorer = Scorer(
        make_twin(model), can_branch=shape.is_plain_attention, max_length=context, max_cached_tokens=context
    )
    step_threads.direct(model)
    runner = PaddedRunner(model, settings, context)
    return RunnerEngine(runner, tokenizer, admission, scorer, settings, step_threads.close)


def _try_continuous(
    model: Any,
    twin: Any,
    tokenizer: Any,
    settings: EngineSettings,
    shape: CacheShape,
    step_threads: StepThreads,
) -> RunnerEngine | str:
    """The engine, or why continuous batching cannot serve this model."""
    context = context_length(text_config(model), settings)
    cache = _plan_cache(model, settings, context, shape)
    admission = _admission(model, tokenizer, settings, cache.tokens)
    support_softcap(model)
    scorer = Scorer(
        twin,
        can_branch=shape.is_plain_attention,
        max_length=context,
        max_cached_tokens=int(_PREFIX_SHARE * cache.tokens),
    )
    failure = "it was not tried"
    step_threads.direct(model)
    tries = [True, False] if settings.per_request_attention and can_attend_per_request(model) else [False]
    for per_request_attention in tries:
        try:
            runner = ContinuousRunner(model, settings, cache, per_request_attention=per_request_attention)
        except Exception as error:  # whatever the library finds wrong with an architecture
            failure = f"its paged cache cannot be built ({type(error).__name__}: {error})"
            continue
        problem = probe_failure(runner, scorer, tokenizer, admission, batch_tokens(settings), exact=is_exact(model))
        if problem is None:
            _logger.info("Continuous batching with a KV cache of %s, context %d tokens.", cache, context)
            return RunnerEngine(runner, tokenizer, admission, scorer, settings, step_threads.close)
        runner.close()
        failure = problem
        if per_request_attention:
            _logger.info("Attention of one call a request is not right for this model: %s.", failure)
    return failure


def _admission(model: Any, tokenizer: Any, settings: EngineSettings, cache_tokens: int | None) -> Admission:
    return Admission(
        vocab_size=vocabulary_size(model),
        max_context_length=context_length(text_config(model), settings),
        cache_tokens=cache_tokens,
        max_new_tokens=settings.max_new_tokens,
        eos_token_ids=end_token_ids(model, tokenizer),
        timeout_s=settings.request_timeout_s or DEFAULT_TIMEOUT_S,
        constraints=ConstraintCompiler(tokenizer, logits_width(model)),
        features=FeatureCheck("transformers", ENGINES["transformers"].limits),
    )


def _plan_cache(model: Any, settings: EngineSettings, context: int, shape: CacheShape) -> CachePlan:
    free = int(torch.cuda.mem_get_info(model.device)[0]) if model.device.type == "cuda" else available_memory_bytes()
    return plan_cache(
        settings,
        context,
        shape.bytes_per_token,
        free,
        usable=USABLE_PAGES,
        extra_bytes_per_token=4 * batch_tokens(settings),  # the mask of a step: [batch tokens, cache tokens] floats
    )

"""The engine on transformers: admission, open requests, scoring; a runner makes the tokens."""

from __future__ import annotations

import logging
import operator
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import EngineUnavailableError, GenerationError, InvalidInputError, PromptTooLongError
from mlflow_llm_plugins.generation.admission import DEFAULT_TIMEOUT_S, Admission
from mlflow_llm_plugins.generation.architecture import (
    end_token_ids,
    is_exact,
    logits_width,
    refuse_other_tasks,
    refuse_slow_tokenizer,
    vocabulary_size,
    why_not_paged,
)
from mlflow_llm_plugins.generation.cache_plan import context_length, plan_cache
from mlflow_llm_plugins.generation.continuous import ContinuousRunner
from mlflow_llm_plugins.generation.cpu.allocator import tune_allocator
from mlflow_llm_plugins.generation.cpu.attention import can_attend_per_request
from mlflow_llm_plugins.generation.cpu.openmp import release_workers
from mlflow_llm_plugins.generation.cpu.packed_linear import pack_linear_layers
from mlflow_llm_plugins.generation.cpu.step_threads import StepThreads
from mlflow_llm_plugins.generation.cpu.threads import set_threads
from mlflow_llm_plugins.generation.encoding import Encoder
from mlflow_llm_plugins.generation.engine import ChoiceScores, EngineState, EngineStats, Text, TokenScores
from mlflow_llm_plugins.generation.open_requests import OpenRequests
from mlflow_llm_plugins.generation.padded import PaddedRunner
from mlflow_llm_plugins.generation.probe import probe_failure
from mlflow_llm_plugins.generation.requests import GenerationRequest
from mlflow_llm_plugins.generation.runner import Runner
from mlflow_llm_plugins.generation.sampling.constraints import ConstraintCompiler
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.generation.scoring.scorer import Scorer
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.softcap import support_softcap
from mlflow_llm_plugins.generation.stream import TokenStream
from mlflow_llm_plugins.generation.twin import CacheShape, inspect_cache, make_twin
from mlflow_llm_plugins.generation.versions import warn_if_untested
from mlflow_llm_plugins.generation.watchdog import Watchdog

_logger = logging.getLogger(__name__)

_CLOSED = "The engine is closed."
_MOST_ALTERNATIVES = 128  # of one place, as in a GenerationRequest
_PREFIX_SHARE = 0.25  # what beginnings kept by `choose` may take, of the KV cache's size and beside it


class TransformersEngine:
    """A `GenerationEngine` over one loaded causal model; all methods may be called from any thread."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Any,
        admission: Admission,
        scorer: Scorer,
        settings: EngineSettings,
        step_threads: StepThreads,
    ) -> None:
        """Put the parts together; `open_continuous` and `open_padded` build them."""
        self._runner = runner
        self._tokenizer = tokenizer
        self._admission = admission
        self._scorer = scorer
        self._encoder = Encoder(tokenizer)
        self._open = OpenRequests(settings.max_queue_size)
        self._watchdog = Watchdog(runner, self._open, settings.step_timeout_s, settings.max_restarts)
        self._closed = self._draining = False
        # The threads must not hold the engine, which is collected when nobody uses it.
        self._finalizer = weakref.finalize(self, _shut_down, self._watchdog, self._open, runner, step_threads)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; read only."""
        return self._tokenizer

    def check(self, request: GenerationRequest) -> None:
        """Raise if the request cannot be admitted; see `GenerationEngine.check`."""
        self._admission.admit(request)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request; see `GenerationEngine.submit`."""
        stream = TokenStream(self._admission.admit(request), self._tokenizer, on_end=self._forget)
        self._refuse_if_unavailable()
        self._open.add(stream)
        try:
            self._watchdog.look()
            self._runner.start(stream)
        except BaseException as error:
            stream.fail(GenerationError(f"The request could not be started: {type(error).__name__}: {error}"))
            raise
        if self._closed:  # meanwhile: close() may have looked before this one was there
            stream.fail(EngineUnavailableError(_CLOSED))
        return stream

    def score(self, texts: Sequence[Text], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probabilities of given tokens; see `GenerationEngine.score`."""
        _refuse_bare_string("score", "texts", texts)
        if not 0 <= top_logprobs <= _MOST_ALTERNATIVES:
            raise InvalidInputError(f"top_logprobs must be from 0 to {_MOST_ALTERNATIVES}, got {top_logprobs!r}.")
        with _own_workers_released():
            return self._scorer.score([self._checked(self._encoder.encode(text)) for text in texts], top_logprobs)

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[NDArray[np.float32]]:
        """Raw logits of one text, some places at a time; see `GenerationEngine.logits`."""
        ids = self._checked(token_ids)
        return _each_with_workers_released(self._scorer.logits(ids, _index_of_target(first, len(ids))))

    def choose(
        self, prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]
    ) -> list[ChoiceScores]:
        """Log-probabilities of choices; see `GenerationEngine.choose`."""
        _refuse_bare_string("choose", "prompts", prompts)
        _refuse_bare_string("choose", "choices", choices)
        rows = self._encoder.choice_rows(prompts, choices)
        with _own_workers_released():
            return self._scorer.choose([self._checked_row(row) for row in rows])

    def stats(self) -> EngineStats:
        """A snapshot of what is running."""
        running = [stream for stream in self._open.all() if stream.received]
        return EngineStats(
            engine=self._runner.name,
            state=self._state(),
            open_requests=len(self._open),
            running_requests=len(running),
            max_context_length=self._admission.max_context_length,
            cache_tokens=self._runner.cache_tokens or 0,
            cache_used_tokens=sum(len(stream.request.prompt_ids) + stream.received for stream in running),
            weight_bytes=self._scorer.weight_bytes,
            restarts=self._watchdog.restarts,
            failure=None if self._closed else self._watchdog.failure(),
        )

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what is open finish; see `GenerationEngine.drain`."""
        self._draining = True
        return self._open.wait_until_none(timeout_s)

    def close(self) -> None:
        """Fail what is open, then stop the runner."""
        self._closed = True
        self._finalizer()
        self._scorer.close()

    def _state(self) -> EngineState:
        if self._closed:
            return "closed"
        if self._watchdog.failure() is None:
            return "draining" if self._draining else "running"
        return "stalled" if self._watchdog.is_stalled else "restarting" if self._watchdog.is_restarting else "dead"

    def _refuse_if_unavailable(self) -> None:
        if self._closed:
            raise EngineUnavailableError(_CLOSED)
        if self._draining:
            raise EngineUnavailableError("The engine is draining: it finishes what is open and takes nothing new.")
        if failure := self._watchdog.failure():
            raise EngineUnavailableError(failure)

    def _forget(self, stream: TokenStream) -> None:
        self._open.discard(stream)
        self._runner.release(stream)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        ids = self._admission.check_ids(token_ids)
        limit = self._admission.max_context_length
        if len(ids) > limit:
            raise PromptTooLongError(
                f"A text of {len(ids)} tokens is longer than the context of {limit}. Cut it, or score it in windows."
            )
        return ids

    def _checked_row(self, row: ChoiceRow) -> ChoiceRow:
        self._checked([*row.stem, *max(row.tails, key=len)])
        for tail in row.tails:
            self._admission.check_ids(tail)
        return row


def _shut_down(watchdog: Watchdog, open_requests: OpenRequests, runner: Runner, step_threads: StepThreads) -> None:
    watchdog.close()
    for stream in open_requests.all():
        stream.fail(EngineUnavailableError("The engine was closed."))
    try:
        runner.close()
    finally:
        step_threads.close()


def _index_of_target(first: Any, tokens: int) -> int:
    try:
        index = operator.index(first)
    except TypeError:
        index = 0
    if not 1 <= index <= tokens:
        raise InvalidInputError(
            f"first must be a whole number from 1 to the number of tokens, here {tokens}, got {first!r}."
        )
    return index


def _refuse_bare_string(method: str, name: str, value: Any) -> None:
    if isinstance(value, str):
        raise InvalidInputError(
            f"{method}() takes a list of {name}, got the string {value[:40]!r}. Write [{name[:-1]}]."
        )


def open_continuous(model: Any, tokenizer: Any, settings: EngineSettings) -> TransformersEngine:
    """The engine on continuous batching where that is right for the model, else on padded `generate`."""
    with _prepared(model, tokenizer, settings) as step_threads:
        shape = inspect_cache(model)
        twin = make_twin(model)
        reason = why_not_paged(model)
        if reason is None:
            opened = _try_continuous(model, twin, tokenizer, settings, shape, step_threads)
            if isinstance(opened, TransformersEngine):
                return opened
            reason = opened
        _logger.warning("Generation runs in padded batches instead of continuous batching: %s.", reason.rstrip("."))
        # A failed try can leave its marks on the model, not on the twin.
        return _open_padded(twin, tokenizer, settings, shape, step_threads)


def open_padded(model: Any, tokenizer: Any, settings: EngineSettings) -> TransformersEngine:
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
        with _own_workers_released():
            pack_linear_layers(model, settings.packed_weights)
            yield step_threads
        step_threads.begin()
    except BaseException:
        step_threads.close()
        raise


@contextmanager
def _own_workers_released() -> Iterator[None]:
    """Leave no OpenMP workers of this thread behind beside those of the generation thread."""
    try:
        yield
    finally:
        release_workers()


def _each_with_workers_released(slices: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The same slices; each is computed when it is asked for."""
    while True:
        with _own_workers_released():
            part = next(slices, None)
        if part is None:
            return
        yield part
        del part  # or two would exist while the next one is computed


def _open_padded(
    model: Any, tokenizer: Any, settings: EngineSettings, shape: CacheShape, step_threads: StepThreads
) -> TransformersEngine:
    admission = _admission(model, tokenizer, settings, cache_tokens=None)
    context = admission.max_context_length
    scorer = Scorer(
        make_twin(model), can_branch=shape.is_plain_attention, max_length=context, max_cached_tokens=context
    )
    step_threads.direct(model)
    runner = PaddedRunner(model, settings, context)
    return TransformersEngine(runner, tokenizer, admission, scorer, settings, step_threads)


def _try_continuous(
    model: Any,
    twin: Any,
    tokenizer: Any,
    settings: EngineSettings,
    shape: CacheShape,
    step_threads: StepThreads,
) -> TransformersEngine | str:
    """The engine, or why continuous batching cannot serve this model."""
    context = context_length(model, settings)
    cache = plan_cache(settings, context, shape.bytes_per_token, model.device)
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
        problem = probe_failure(runner, scorer, tokenizer, admission, settings.max_batch_tokens, exact=is_exact(model))
        if problem is None:
            _logger.info("Continuous batching with a KV cache of %s, context %d tokens.", cache, context)
            return TransformersEngine(runner, tokenizer, admission, scorer, settings, step_threads)
        runner.close()
        failure = problem
        if per_request_attention:
            _logger.info("Attention of one call a request is not right for this model: %s.", failure)
    return failure


def _admission(model: Any, tokenizer: Any, settings: EngineSettings, cache_tokens: int | None) -> Admission:
    return Admission(
        vocab_size=vocabulary_size(model),
        max_context_length=context_length(model, settings),
        cache_tokens=cache_tokens,
        max_new_tokens=settings.max_new_tokens,
        eos_token_ids=end_token_ids(model, tokenizer),
        timeout_s=settings.request_timeout_s or DEFAULT_TIMEOUT_S,
        constraints=ConstraintCompiler(tokenizer, logits_width(model)),
    )

"""The engine on transformers: admission, open requests, scoring; a runner makes the tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError, PromptTooLongError, QueueFullError
from mlflow_llm_plugins.generation.admission import DEFAULT_TIMEOUT_S, Admission
from mlflow_llm_plugins.generation.architecture import (
    end_token_ids,
    is_exact,
    refuse_other_tasks,
    refuse_slow_tokenizer,
    vocabulary_size,
    why_not_paged,
)
from mlflow_llm_plugins.generation.cache_plan import context_length, plan_cache
from mlflow_llm_plugins.generation.continuous import ContinuousRunner
from mlflow_llm_plugins.generation.encoding import Encoder
from mlflow_llm_plugins.generation.engine import EngineStats, Text
from mlflow_llm_plugins.generation.padded import PaddedRunner
from mlflow_llm_plugins.generation.probe import probe_failure
from mlflow_llm_plugins.generation.requests import GenerationRequest
from mlflow_llm_plugins.generation.runner import Runner
from mlflow_llm_plugins.generation.scoring import ChoiceRow, Scorer
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.softcap import support_softcap
from mlflow_llm_plugins.generation.stream import TokenStream
from mlflow_llm_plugins.generation.threads import set_threads
from mlflow_llm_plugins.generation.twin import CacheShape, inspect_cache, make_twin
from mlflow_llm_plugins.generation.versions import warn_if_untested

_logger = logging.getLogger(__name__)


class TransformersEngine:
    """A `GenerationEngine` over one loaded causal model; all methods may be called from any thread."""

    def __init__(
        self, runner: Runner, tokenizer: Any, admission: Admission, scorer: Scorer, max_queue_size: int
    ) -> None:
        """Put the parts together; `open_continuous` and `open_padded` build them."""
        self._runner = runner
        self._tokenizer = tokenizer
        self._admission = admission
        self._scorer = scorer
        self._max_queue_size = max_queue_size
        self._encoder = Encoder(tokenizer)
        self._open: set[TokenStream] = set()
        self._closed = False
        self._lock = threading.Lock()  # of _open and _closed

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; read only."""
        return self._tokenizer

    def check(self, request: GenerationRequest) -> None:
        """Raise if the request cannot be admitted; see `GenerationEngine.check`."""
        self._admission.admit(request)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request; see `GenerationEngine.submit`."""
        stream = TokenStream(
            self._admission.admit(request), self._tokenizer, on_end=self._forget, engine_failure=self._failure
        )
        failure = self._failure()
        if failure is not None:
            raise EngineUnavailableError(failure)
        with self._lock:
            if len(self._open) >= self._max_queue_size:
                raise QueueFullError(
                    f"{len(self._open)} requests are open, as many as max_queue_size={self._max_queue_size} allows. "
                    "Try again later."
                )
            self._open.add(stream)
        try:
            self._runner.start(stream)
        except BaseException:
            self._forget(stream)  # its slot must not stay taken
            raise
        return stream

    def score(self, texts: Sequence[Text]) -> list[list[float]]:
        """Log-probabilities of given tokens; see `GenerationEngine.score`."""
        _refuse_bare_string("score", "texts", texts)
        return self._scorer.score([self._checked(self._encoder.encode(text)) for text in texts])

    def choose(self, prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]) -> list[list[float]]:
        """Log-probabilities of choices; see `GenerationEngine.choose`."""
        _refuse_bare_string("choose", "prompts", prompts)
        _refuse_bare_string("choose", "choices", choices)
        rows = self._encoder.choice_rows(prompts, choices)
        return self._scorer.choose([self._checked_row(row) for row in rows])

    def stats(self) -> EngineStats:
        """A snapshot of what is running."""
        with self._lock:
            open_requests, closed = len(self._open), self._closed
        return EngineStats(
            engine=self._runner.name,
            state="closed" if closed else "dead" if self._runner.failure() else "running",
            open_requests=open_requests,
            max_context_length=self._admission.max_context_length,
            cache_tokens=self._runner.cache_tokens or 0,
        )

    def close(self) -> None:
        """Fail what is open, then stop the runner."""
        with self._lock:
            self._closed = True
            streams = list(self._open)
        for stream in streams:
            stream.fail(EngineUnavailableError("The engine was closed."))
        self._runner.close()

    def _failure(self) -> str | None:
        return "The engine is closed." if self._closed else self._runner.failure()

    def _forget(self, stream: TokenStream) -> None:
        with self._lock:
            self._open.discard(stream)
        self._runner.release(stream)

    def _checked(self, ids: list[int]) -> list[int]:
        limit = self._admission.max_context_length
        if len(ids) > limit:
            raise PromptTooLongError(
                f"A text of {len(ids)} tokens is longer than the context of {limit}. Cut it, or score it in windows."
            )
        return self._admission.check_ids(ids)

    def _checked_row(self, row: ChoiceRow) -> ChoiceRow:
        for tail in row.tails:
            self._checked([*row.stem, *tail])
        return row


def _refuse_bare_string(method: str, name: str, value: Any) -> None:
    if isinstance(value, str):
        raise InvalidInputError(
            f"{method}() takes a list of {name}, got the string {value[:40]!r}. Write [{name[:-1]}]."
        )


def open_continuous(model: Any, tokenizer: Any, settings: EngineSettings) -> TransformersEngine:
    """The engine on continuous batching where that is right for the model, else on padded `generate`."""
    _prepare(model, tokenizer, settings)
    shape = inspect_cache(model)
    twin = make_twin(model)
    reason = why_not_paged(model)
    if reason is None:
        opened = _try_continuous(model, twin, tokenizer, settings, shape)
        if isinstance(opened, TransformersEngine):
            return opened
        reason = opened
    _logger.warning("Generation runs in padded batches instead of continuous batching: %s.", reason.rstrip("."))
    return open_padded(twin, tokenizer, settings)  # a failed try can leave its marks on the model, not on the twin


def open_padded(model: Any, tokenizer: Any, settings: EngineSettings) -> TransformersEngine:
    """The engine on padded `generate`, for any causal model."""
    _prepare(model, tokenizer, settings)
    admission = _admission(model, tokenizer, settings, cache_tokens=None)
    shape = inspect_cache(model)
    scorer = Scorer(make_twin(model), can_branch=shape.is_plain_attention, max_length=admission.max_context_length)
    runner = PaddedRunner(model, settings, admission.max_context_length)
    return TransformersEngine(runner, tokenizer, admission, scorer, settings.max_queue_size)


def _prepare(model: Any, tokenizer: Any, settings: EngineSettings) -> None:
    refuse_other_tasks(model)
    refuse_slow_tokenizer(tokenizer)
    warn_if_untested()
    set_threads(settings.num_threads)
    model.eval()


def _try_continuous(
    model: Any, twin: Any, tokenizer: Any, settings: EngineSettings, shape: CacheShape
) -> TransformersEngine | str:
    """The engine, or why continuous batching cannot serve this model."""
    context = context_length(model, settings)
    cache = plan_cache(settings, context, shape.bytes_per_token, model.device)
    admission = _admission(model, tokenizer, settings, cache.tokens)
    support_softcap(model)
    try:
        runner = ContinuousRunner(model, settings, cache)
    except Exception as error:  # whatever the library finds wrong with an architecture
        return f"its paged cache cannot be built ({type(error).__name__}: {error})"
    scorer = Scorer(twin, can_branch=shape.is_plain_attention, max_length=context)
    engine = TransformersEngine(runner, tokenizer, admission, scorer, settings.max_queue_size)
    failure = probe_failure(runner, scorer, tokenizer, admission, settings.max_batch_tokens, exact=is_exact(model))
    if failure is not None:
        engine.close()
        return failure
    _logger.info("Continuous batching with a KV cache of %s, context %d tokens.", cache, context)
    return engine


def _admission(model: Any, tokenizer: Any, settings: EngineSettings, cache_tokens: int | None) -> Admission:
    return Admission(
        vocab_size=vocabulary_size(model),
        max_context_length=context_length(model, settings),
        cache_tokens=cache_tokens,
        max_new_tokens=settings.max_new_tokens,
        eos_token_ids=end_token_ids(model, tokenizer),
        timeout_s=settings.request_timeout_s or DEFAULT_TIMEOUT_S,
    )

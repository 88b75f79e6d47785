"""Many questions at once, each with an opinion or a reason of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tqdm import tqdm

from mlflow_llm_plugins.errors import EngineUnavailableError, LLMError
from mlflow_llm_plugins.metrics.judge.backends.stopping import Stopping
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

Ask = Callable[[Question], Opinion]


class RowsInFlight:
    """Asks from a bounded number of threads, which end with each call; after Ctrl-C, with what they wait for."""

    def __init__(self, count: int, max_unanswered: int = 3) -> None:
        """Begin; no thread is started yet.

        Args:
            count: Questions that may be open at once; one alone is asked in the caller's thread.
            max_unanswered: After so many in a row without an answer to any question the rest is not asked.
        """
        self._count = count
        self._max_unanswered = max_unanswered
        self._is_proven = False  # an opinion has come once: what fails from now on concerns a row
        self.stopping = Stopping()  # set for the threads of a call that ends early: then no pause is worth its time

    def ask(self, ask: Ask, questions: Sequence[Question], progress: bool) -> list[Opinion]:
        """An opinion a question, in order.

        Args:
            ask: Raises `NoOpinionError` for its row, an `LLMError` where nothing can be asked at all.
            questions: As long as none was ever answered, the first one is asked alone: what it finds out is found
                out once.
            progress: Whether a bar is shown on a terminal.

        Raises:
            LLMError: From that first question.
        """
        alone = 0 if self._is_proven else 1
        silence = _Silence(self._max_unanswered)
        hidden = None if progress else True  # None: shown on a terminal only
        with tqdm(total=len(questions), desc="judge", unit="row", disable=hidden, leave=False) as bar:
            opinions = []
            for question in questions[:alone]:
                opinions.append(self._opinion(ask, question, silence))
                bar.update()
            with closing(self._together(ask, questions[alone:], silence)) as others:
                for opinion in others:
                    opinions.append(opinion)
                    bar.update()
        return opinions

    def _together(self, ask: Ask, questions: Sequence[Question], silence: _Silence) -> Generator[Opinion, None, None]:
        if self._count == 1:
            yield from (self._guarded(ask, question, silence) for question in questions)
            return
        threads = max(1, min(self._count, len(questions)))
        call = threading.Event()
        pool = ThreadPoolExecutor(threads, "judge", initializer=self.stopping.join, initargs=(call,))
        try:
            yield from pool.map(lambda question: self._guarded(ask, question, silence), questions)
        except BaseException:  # Ctrl-C, for example, which waits for no answer
            pool.shutdown(wait=False, cancel_futures=True)
            self.stopping.end(call)
            raise
        pool.shutdown()

    def _guarded(self, ask: Ask, question: Question, silence: _Silence) -> Opinion:
        try:
            return self._opinion(ask, question, silence)
        except LLMError as error:
            return Opinion(error=str(error))

    def _opinion(self, ask: Ask, question: Question, silence: _Silence) -> Opinion:
        if (given_up := silence.given_up()) is not None:
            return Opinion(error=given_up)
        answers = silence.answers
        try:
            opinion = ask(question)
        except NoOpinionError as reason:
            silence.failed(answers, reason)
            return Opinion(error=str(reason))
        except LLMError as error:
            silence.failed(answers, error)
            raise
        except Exception as error:  # of a library, on an answer that it was not made for; it may repeat the question
            return Opinion(error=f"the judge failed with {type(error).__name__}")
        self._is_proven = True
        silence.answered()
        return opinion


class _Silence:
    """Counts the questions of a call that got no answer, while no other got one. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._last_reason = ""
        self._lock = threading.Lock()
        self.answers = 0

    def answered(self) -> None:
        with self._lock:
            self.answers += 1
            self._count = 0

    def failed(self, answers: int, error: Exception) -> None:
        """A question got no opinion.

        Args:
            answers: To other questions, when this one was asked: a server that has given one since is not silent.
            error: Some are answers, such as a refusal.
        """
        if not isinstance(error, EngineUnavailableError) and not getattr(error, "is_silence", False):
            self.answered()
            return
        with self._lock:
            if self.answers == answers:
                self._count += 1
                self._last_reason = str(error)

    def given_up(self) -> str | None:
        """Why no question is asked any more; None: one is."""
        if self._count < self._most:
            return None
        return (
            f"{self._last_reason.rstrip('.')}; not asked, as that happened to {self._most} questions in a row (raise "
            "max_unanswered to go on longer)"
        )

"""Many questions at once, each with an opinion or a reason of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from mlflow_llm_plugins.errors import EngineUnavailableError, LLMError
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

Ask = Callable[[Question], Opinion]


class RowsInFlight:
    """Asks from a bounded number of threads, which end with each call."""

    def __init__(self, count: int, max_unanswered: int = 3) -> None:
        """Begin; no thread is started yet.

        Args:
            count: Questions that may be open at once; one alone is asked in the caller's thread.
            max_unanswered: After so many in a row of which nobody heard anything, the rest is not asked.
        """
        self._count = count
        self._max_unanswered = max_unanswered
        self._unanswered = 0  # in a row; threads may miscount by a few
        self._last_reason = ""
        self._is_proven = False  # an opinion has come once: what fails from now on concerns a row
        self.stopping = threading.Event()  # set while a call ends early: then no pause is worth its time

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
        self.stopping.clear()
        self._unanswered = 0
        alone = 0 if self._is_proven else 1
        hidden = None if progress else True  # None: shown on a terminal only
        with tqdm(total=len(questions), desc="judge", unit="row", disable=hidden, leave=False) as bar:
            opinions = []
            for question in questions[:alone]:
                opinions.append(self._opinion(ask, question))
                bar.update()
            for opinion in self._together(ask, questions[alone:]):
                opinions.append(opinion)
                bar.update()
        return opinions

    def _together(self, ask: Ask, questions: Sequence[Question]) -> Iterator[Opinion]:
        if self._count == 1:
            yield from (self._guarded(ask, question) for question in questions)
            return
        threads = max(1, min(self._count, len(questions)))
        with ThreadPoolExecutor(threads, thread_name_prefix="judge") as pool:
            try:
                yield from pool.map(lambda question: self._guarded(ask, question), questions)
            except BaseException:  # Ctrl-C, for example
                self.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _guarded(self, ask: Ask, question: Question) -> Opinion:
        try:
            return self._opinion(ask, question)
        except LLMError as error:
            return Opinion(error=str(error))

    def _opinion(self, ask: Ask, question: Question) -> Opinion:
        if self._unanswered >= self._max_unanswered:
            return Opinion(error=self._given_up())
        try:
            opinion = ask(question)
        except NoOpinionError as reason:
            self._heard(getattr(reason, "is_silence", False), str(reason))
            return Opinion(error=str(reason))
        except LLMError as error:
            self._heard(isinstance(error, EngineUnavailableError), str(error))
            raise
        except Exception as error:  # of a library, on an answer that it was not made for; it may repeat the question
            return Opinion(error=f"the judge failed with {type(error).__name__}")
        self._is_proven = True
        self._unanswered = 0
        return opinion

    def _heard(self, is_silence: bool, reason: str) -> None:
        self._unanswered = self._unanswered + 1 if is_silence else 0
        self._last_reason = reason

    def _given_up(self) -> str:
        return (
            f"{self._last_reason.rstrip('.')}; not asked, as that happened to {self._max_unanswered} questions in a "
            "row (raise max_unanswered to go on longer)"
        )

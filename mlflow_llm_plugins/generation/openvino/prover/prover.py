"""The parent's side: which constraints may join, each proven once."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError  # Python 3.10 has two of them
from pathlib import Path

from mlflow_llm_plugins.errors import (
    EngineUnavailableError,
    HardwareError,
    QueueFullError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess
from mlflow_llm_plugins.generation.openvino.prover import proving
from mlflow_llm_plugins.generation.openvino.prover.forms import as_library_form
from mlflow_llm_plugins.generation.openvino.prover.text_tokenizer import require_tokenizer_files
from mlflow_llm_plugins.generation.requests import Constraint
from mlflow_llm_plugins.generation.sampling.forms import NAMES

_logger = logging.getLogger(__name__)

_CHILD = "mlflow_llm_plugins.generation.openvino.prover.proving:main"
_MOST_VERDICTS = 256
_STARTING_S = 60.0  # on a machine that has other work; a second where it has none
_CLOSING_S = 5.0
_START_S = 3.0  # that callers wait for it, beside others' proofs
_MOST_FORMS = 3  # one that is proven, two that wait: each keeps a thread that others need too
_SMALLER = (  # counting takes a pass over the tokens a step
    "lower its maxLength, maxItems or {m,n}, or leave them and the bounds of numbers out"
)


class GrammarProver:
    """Has the library compile every new form in a process of its own, where a bad one does no harm.

    Inside a running pipeline a bad form, or one that takes for ever, would end or stop all requests. The process is
    started at the first constraint (about a second), waits idle after that, and ends with `close`; if it dies, the
    next constraint starts another. Thread-safe: one form is proven at a time, two more may wait for their turn; who
    asks for the same form waits for the same proof, and who asks for a known one does not wait. What took too long is
    refused again without another try.
    """

    def __init__(self, folder: Path, vocab_size: int, *, timeout_s: float = 2.0) -> None:
        """Start nothing yet.

        Args:
            folder: Of the model's IR, with the tokenizer's IR in it.
            vocab_size: Width of the logits.
            timeout_s: What takes longer to prepare is refused. The pipeline prepares a form that passes again, and all
                its requests wait meanwhile. Callers wait for others' forms for three times as long at most, and for
                the process to start.
        """
        self._folder = folder
        self._vocab_size = vocab_size
        self._timeout_s = timeout_s
        self._verdicts = _Verdicts()
        self._text_ids: frozenset[int] = frozenset()  # tokens that have a text; told by the first process
        self._refusal = ""  # of any constraint with this tokenizer; told by the first process
        self._child: ChildProcess | None = None
        self._is_closed = False
        self._lock = threading.Lock()  # of the process, and of what is above
        self._patience_s = _MOST_FORMS * timeout_s + _START_S
        self._proofs: dict[str, Future[str]] = {}  # of the forms that are being proven, or wait for that
        self._joining = threading.Lock()  # of these

    def matcher(self, constraint: Constraint, eos_token_ids: frozenset[int]) -> None:
        """Let a constraint pass that the engine can hold its answers to; the library follows it.

        Args:
            constraint: The form.
            eos_token_ids: The tokens that end the answer; none of them may be part of a text.

        Raises:
            UnsupportedFeatureError: Names what the form has that cannot be honoured, and why.
            InvalidInputError: The form itself is wrong.
            QueueFullError: As many other forms are being prepared as may be at once.
            EngineUnavailableError: The process cannot be started, or ended, or others' forms took too long; the next
                constraint tries anew.
        """
        require_tokenizer_files(self._folder)
        if not eos_token_ids:
            raise UnsupportedFeatureError(
                "A constrained answer needs an end token to mark the end of its form with the engine 'openvino'. "
                "Leave eos_token_ids out, or name the model's own."
            )
        _, ebnf = as_library_form(constraint)
        if verdict := self._verdict(ebnf, min(eos_token_ids)):
            raise UnsupportedFeatureError(f"The {NAMES[constraint.kind]} cannot be honoured: {verdict}.")
        self._require_ends(eos_token_ids)

    def close(self) -> None:
        """End the process, also in the middle of a proof; later constraints are refused."""
        self._is_closed = True
        if (child := self._child) is not None:
            child.kill()
        with self._lock:
            self._end_child()

    def _verdict(self, ebnf: str, end_token_id: int) -> str:
        """Why the library cannot follow the form; empty where it can. All who ask for one wait for the same proof."""
        if (known := self._verdicts.get(ebnf)) is not None:
            return known
        proof, is_mine = self._join(ebnf)
        if is_mine:
            self._carry_out(proof, ebnf, end_token_id)
        try:
            return proof.result(self._patience_s)
        except NotDoneError:
            raise self._too_long() from None

    def _join(self, ebnf: str) -> tuple[Future[str], bool]:
        """The proof of a form, and whether the caller is the one to carry it out."""
        with self._joining:
            if (proof := self._proofs.get(ebnf)) is not None:
                return proof, False
            if len(self._proofs) >= _MOST_FORMS:
                raise QueueFullError(f"{_MOST_FORMS} new forms are being prepared; try again.")
            proof = self._proofs[ebnf] = Future()
            return proof, True

    def _carry_out(self, proof: Future[str], ebnf: str, end_token_id: int) -> None:
        try:
            if not self._lock.acquire(timeout=self._patience_s):
                raise self._too_long()
            try:
                proof.set_result(self._verdicts.put(ebnf, self._prove(ebnf, end_token_id)))
            finally:
                self._lock.release()
        except Exception as error:
            proof.set_exception(error)
        finally:
            with self._joining:
                del self._proofs[ebnf]

    def _too_long(self) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"Other new forms took longer than {self._patience_s:g} s to prepare; try again."
        )

    def _prove(self, ebnf: str, end_token_id: int) -> str:
        try:
            child = self._running_child()
            child.send((ebnf, end_token_id))
            message = child.receive(self._timeout_s)
        except TimeoutError:
            self._end_child()
            return f"it takes longer than {self._timeout_s:g} s to prepare; {_SMALLER}"
        except EOFError as error:
            raise self._death() from error
        if isinstance(message, proving.Refused):
            self._end_child()
            return message.reason
        return ""

    def _running_child(self) -> ChildProcess:
        """The process, ready for a form."""
        if self._child is not None and self._child.is_alive():
            return self._child
        self._end_child()
        if self._refusal:
            raise UnsupportedFeatureError(self._refusal)
        self._child = ChildProcess(_CHILD, (str(self._folder), self._vocab_size), "the prover of grammars")
        if self._is_closed:  # `close` may have looked for the process just before
            raise EngineUnavailableError("The engine is closed.")
        try:
            self._child.start()
            self._greet(self._child.receive(_STARTING_S))
        except (HardwareError, TimeoutError) as error:
            self._end_child()
            raise EngineUnavailableError(f"Constrained output is not available now: {error}") from error
        return self._child

    def _greet(self, message: object) -> None:
        if isinstance(message, proving.Refused):
            self._refusal = message.reason
            self._end_child()
            raise UnsupportedFeatureError(message.reason)
        assert isinstance(message, proving.Ready)
        self._text_ids = message.text_ids

    def _require_ends(self, eos_token_ids: frozenset[int]) -> None:
        """Refuse end tokens with a text: the library lets them come where the form has their text, and ends there."""
        if with_text := sorted(eos_token_ids & self._text_ids):
            raise UnsupportedFeatureError(
                f"A constrained answer cannot end with the token {with_text[0]}, which is part of texts, with the "
                "engine 'openvino'. Leave it out of eos_token_ids and stop_token_ids."
            )

    def _death(self) -> EngineUnavailableError:
        """The error of a process that ended by itself."""
        if self._is_closed:
            return EngineUnavailableError("The engine is closed.")
        ending = ""
        if self._child is not None:
            self._child.wait(_CLOSING_S)
            ending = self._child.ending()
        self._end_child()
        _logger.warning(
            "The process that prepares constraints has gone: %s. The next constraint starts another.", ending
        )
        return EngineUnavailableError(
            f"The constraint was not prepared, because the process for that has gone: {ending}."
        )

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close(_CLOSING_S)
            self._child = None


class _Verdicts:
    """The last verdicts; thread-safe."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, ebnf: str) -> str | None:
        with self._lock:
            if ebnf in self._found:
                self._found.move_to_end(ebnf)
            return self._found.get(ebnf)

    def put(self, ebnf: str, verdict: str) -> str:
        with self._lock:
            self._found[ebnf] = verdict
            if len(self._found) > _MOST_VERDICTS:
                self._found.popitem(last=False)
        return verdict

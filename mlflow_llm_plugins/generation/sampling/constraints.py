"""Answers of a given form, by llguidance: which tokens may come next, and whether anything may.

llguidance knows a single end token. It is given one that no model has, since which tokens end an answer is each
request's own affair: the real ones are added to its masks here.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import (
    InvalidInputError,
    MissingDependencyError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.generation.requests import Constraint, ConstraintKind
from mlflow_llm_plugins.generation.sampling.forms import NAMES, read_schema, require_text, shortened

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Bits = NDArray[np.int32]  # [words] a bit for each token, lowest first

_MAX_SYMBOLS = 30_000  # of a grammar: about 3000 optional properties, a second to compile; that grows with the square
_RECENT = 16  # forms kept compiled: rows of one table and calls of one program ask for the same
_END = "<|end of a constrained answer|>"
_WORD = 32  # bits; llguidance's masks are words of so many
_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # [256, 8] their bits
_JSON_OPTIONS: Any = {
    "whitespace_flexible": False,  # a weak model pads for ever where it may
    "lenient": False,  # or a schema's "x-guidance" could have keywords ignored
}


class ConstraintMatcher:
    """How far one answer has come in its form; belongs to one request, and is used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, tables: _Tables, eos_token_ids: Iterable[int]) -> None:
        """Begin an answer."""
        self._matcher = matcher
        self._ends = tables.bits_of(eos_token_ids)
        self._text = tables.text & ~self._ends
        self.bits = np.zeros_like(self._ends)  # whether a token may come next
        self.failure = self._look_ahead()  # why no token may come next, or ""

    @property
    def is_finished(self) -> bool:
        """Whether the answer is complete and no token may follow but an end token."""
        return self._is_finished

    def accept(self, token_id: int) -> None:
        """Note the token that was picked; one that may come next, and no end token.

        Raises:
            InvalidInputError: The form became too complex to follow.
        """
        if not self._matcher.consume_token(token_id):
            raise InvalidInputError(f"The constrained answer broke off: {_reason(self._matcher.get_error())}.")
        self.failure = self._look_ahead()
        if self.failure:
            raise InvalidInputError(f"The constrained answer broke off: {self.failure}.")

    def _look_ahead(self) -> str:
        self._matcher.unsafe_compute_mask_ptr(self.bits.ctypes.data, self.bits.nbytes)
        if self._matcher.is_error():
            return _reason(self._matcher.get_error())
        self.bits &= self._text  # not special tokens, also those that a Lark grammar names: no text has them
        self._is_finished = not self.bits.any()
        may_end = self._matcher.is_accepting()
        if may_end:
            self.bits |= self._ends
        return "" if may_end or not self._is_finished else _NOTHING_FITS


def masks_of(matchers: Sequence[ConstraintMatcher], like: torch.Tensor) -> torch.Tensor:
    """What to add to logits: 0 for tokens that may come next, end tokens where the answer may end here, else -inf.

    A row forbids all tokens where its answer is finished and the request has no end tokens.

    Args:
        matchers: One for each row.
        like: Logits, [..., vocab].

    Returns:
        [rows, vocab] with type and device of the logits. By a table of all bytes: several times faster than choosing
        by a mask of booleans, most of all where they change often.

    Raises:
        ValueError: The logits are wider than the model's head.
    """
    table = torch.from_numpy(np.where(_BYTES, 0.0, -np.inf)).to(like)  # [256, 8]
    bits = np.stack([matcher.bits for matcher in matchers]).view(np.uint8)  # [rows, bytes]
    rows = torch.nn.functional.embedding(torch.from_numpy(bits).to(like.device, torch.int32), table)
    masks = rows.flatten(1)[:, : like.shape[-1]]
    if masks.shape[-1] < like.shape[-1]:
        raise ValueError(f"The constraint was made for {masks.shape[-1]} logits, and there are {like.shape[-1]}.")
    return masks


class ConstraintCompiler:
    """Makes matchers for one tokenizer; its tables are built at the first constraint, once. Thread-safe."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        """Take the tokenizer and the width of the logits."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._tables: _Tables | None = None
        self._lock = threading.Lock()  # of _tables

    def matcher(self, constraint: Constraint, eos_token_ids: frozenset[int]) -> ConstraintMatcher:
        """A new matcher at the beginning of an answer; end tokens are those of the request.

        Raises:
            UnsupportedFeatureError: Names what the form has that cannot be honoured, and why.
            InvalidInputError: The form itself is wrong.
            MissingDependencyError: llguidance is not installed.
        """
        _require_llguidance()
        tables = self._built_tables()
        value = constraint.value if isinstance(constraint.value, str) else tuple(constraint.value)
        begun = ConstraintMatcher(tables.compiled(constraint.kind, value).deep_copy(), tables, eos_token_ids)
        name = NAMES[constraint.kind]
        if begun.failure:
            raise InvalidInputError(f"The {name} cannot be honoured: {begun.failure}.")
        if begun.is_finished:
            raise InvalidInputError(f"The {name} cannot be honoured: only an empty answer has this form.")
        return begun

    def _built_tables(self) -> _Tables:
        with self._lock:
            if self._tables is None:
                self._tables = _build_tables(self._tokenizer, self._vocab_size)
            return self._tables


@dataclass(frozen=True, slots=True)
class _Tables:
    compiled: Callable[[ConstraintKind, str | tuple[str, ...]], LLMatcher]  # nothing is consumed by what it gives
    text: Bits  # the tokens that text can have: no special ones, and none without a logit
    vocab_size: int  # width of the logits

    def bits_of(self, token_ids: Iterable[int]) -> Bits:
        """Those of the tokens that have a logit."""
        return _bits_of(token_ids, self.vocab_size, len(self.text))


def _build_tables(tokenizer: Any, vocab_size: int) -> _Tables:
    from llguidance import LLTokenizer
    from tokenizers import AddedToken

    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    taken = set(backend.get_vocab(with_added_tokens=True).values())
    backend.add_special_tokens([AddedToken(_END, special=True, normalized=False)])
    end = backend.token_to_id(_END)
    if end in taken:
        raise UnsupportedFeatureError("Constrained output is not supported: the ids of the tokenizer have gaps.")
    width = max(vocab_size, end + 1, max(taken) + 1)
    try:
        tables = LLTokenizer(backend.to_str(), n_vocab=width, eos_token=end)
    except ValueError as error:
        reason = _reason(str(error))
        raise UnsupportedFeatureError(f"Constrained output is not supported with this tokenizer: {reason}.") from error
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    words = (width + _WORD - 1) // _WORD
    specials = _bits_of({*special, *tokenizer.all_special_ids, end}, vocab_size, words)
    text = _bits_of(range(vocab_size), vocab_size, words) & ~specials
    return _Tables(lru_cache(_RECENT)(partial(_compile, tables)), text, vocab_size)


def _compile(tokenizer: LLTokenizer, kind: ConstraintKind, value: str | tuple[str, ...]) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_grammar_size=_MAX_SYMBOLS, verbose_errors=False)
    matcher = LLMatcher(tokenizer, _grammar(kind, value), log_level=0, limits=limits)
    if matcher.is_error():
        raise UnsupportedFeatureError(f"The {NAMES[kind]} cannot be honoured: {_reason(matcher.get_error())}.")
    return matcher


def _require_llguidance() -> None:
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "constrained output needs llguidance: pip install 'mlflow-llm-plugins[torch]'"
        ) from error


def _grammar(kind: ConstraintKind, value: str | tuple[str, ...]) -> str:
    """The form as llguidance writes it."""
    require_text(kind, value)
    try:
        return _GRAMMARS[kind](value)
    except InvalidInputError:
        raise
    except ValueError as error:  # llguidance's own
        raise UnsupportedFeatureError(f"The {NAMES[kind]} cannot be honoured: {_reason(str(error))}.") from error


def _json_schema(text: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(text if read_schema(text) else "{}", overrides=_JSON_OPTIONS)


def _regex(pattern: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_regex(pattern)


def _choice(choices: tuple[str, ...]) -> str:
    """A regex: as a rule with alternatives ten thousand choices take seconds, more of them panic."""
    return _regex("|".join("".join(map(_literal, choice)) for choice in choices))


def _literal(character: str) -> str:
    """What matches the character alone, in Rust's syntax."""
    return character if ord(character) > 127 or character.isalnum() else f"\\x{ord(character):02x}"


def _lark(text: str) -> str:
    from llguidance import LLMatcher

    if text.lstrip().startswith("{"):  # read by llguidance as a format of its own
        raise InvalidInputError('The Lark grammar must be Lark rules such as \'start: "a" | "b"\', got JSON.')
    return LLMatcher.grammar_from_lark(text)


_GRAMMARS: dict[ConstraintKind, Callable[[Any], str]] = {
    "json_schema": _json_schema,
    "regex": _regex,
    "choice": _choice,
    "lark": _lark,
}

_NOTHING_FITS = "no token may come next"


def _reason(text: str) -> str:
    """One line of llguidance's error: without the state and grammar that it shows below."""
    if error := re.search(r"^error: (.+)$", text, re.MULTILINE):  # of a regex
        text = error[1]
    line = shortened(text)
    return _NOTHING_FITS if line.startswith("NoExtension") else line  # its name for a state that no token leaves


def _bits_of(token_ids: Iterable[int], vocab_size: int, words: int) -> Bits:
    flags = np.zeros(words * _WORD, np.bool_)
    flags[[token_id for token_id in token_ids if 0 <= token_id < vocab_size]] = True
    return np.packbits(flags, bitorder="little").view(np.int32)

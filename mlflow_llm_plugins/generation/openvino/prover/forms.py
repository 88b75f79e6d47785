"""Constraints as openvino-genai takes them. Needs neither torch nor OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.prover.grammar import (
    Expression,
    Grammar,
    Regex,
    SchemaReader,
    Text,
    choice,
    fault,
    finite,
    write,
)
from mlflow_llm_plugins.generation.requests import Constraint, ConstraintKind
from mlflow_llm_plugins.generation.sampling.forms import NAMES, read_schema, require_text

_RECENT = 64


def as_library_form(constraint: Constraint) -> tuple[Literal["grammar"], str]:
    """The field of `openvino_genai.StructuredOutputConfig` to set, and its value: the form as EBNF.

    Thread-safe; the last ones are kept, since proof and request ask for the same.

    Raises:
        InvalidInputError: The form itself is wrong.
        UnsupportedFeatureError: Names what the form has that cannot be honoured.
    """
    value = constraint.value if isinstance(constraint.value, str) else tuple(constraint.value)
    require_text(constraint.kind, value)
    return "grammar", _ebnf(constraint.kind, value)


@lru_cache(_RECENT)
def _ebnf(kind: ConstraintKind, value: str | tuple[str, ...]) -> str:
    grammar = Grammar()
    try:
        rules = finite(grammar, _READERS[kind](value, grammar))
        reason = fault(rules)
    except RecursionError as error:
        raise InvalidInputError(f"The {NAMES[kind]} is nested too deeply.") from error
    if reason:
        raise InvalidInputError(f"The {NAMES[kind]} cannot be honoured: {reason}.")
    return write(rules)


def _schema(text: str, grammar: Grammar) -> Expression:
    return SchemaReader(read_schema(text), grammar).read()


def _regex(pattern: str, grammar: Grammar) -> Expression:
    return Regex.parse(pattern).expression(grammar)


def _choice(choices: tuple[str, ...], _: Grammar) -> Expression:
    for text in choices:
        if "\0" in text:
            raise UnsupportedFeatureError(
                f"The choice cannot be honoured: {text!r} has a NUL character, which is not supported by the engine "
                "'openvino'."
            )
    return choice(Text(text) for text in choices)


def _lark(_: str, __: Grammar) -> Expression:
    raise UnsupportedFeatureError(
        "The Lark grammar cannot be honoured: the engine 'openvino' takes a JSON schema, a regex or choices."
    )


_READERS: Mapping[ConstraintKind, Callable[[Any, Grammar], Expression]] = MappingProxyType(
    {"json_schema": _schema, "regex": _regex, "choice": _choice, "lark": _lark}
)

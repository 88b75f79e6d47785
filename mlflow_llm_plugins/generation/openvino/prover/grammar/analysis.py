"""What must hold of a grammar before xgrammar may see it.

xgrammar (in openvino-genai 2026.4.1) takes a grammar that begins with itself without a word, and the answer then
follows no form at all; one that never ends runs into the limit of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from graphlib import CycleError, TopologicalSorter

from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    EMPTY,
    Choice,
    Expression,
    Grammar,
    OneOf,
    Repeat,
    Rule,
    Sequence,
    Text,
    choice,
    repeat,
    sequence,
)

ROOT = "root"


def finite(grammar: Grammar, root: Expression) -> dict[str, Expression]:
    """The rules without what no text of finite length fits; "root" is the one to begin with, if anything is left."""
    rules = {ROOT: root, **grammar.rules}
    ending = _fixpoint(rules, _can_end)
    kept = {name: _pruned(expression, ending) for name, expression in rules.items() if name in ending}
    used = _reachable(kept)
    return {name: expression for name, expression in kept.items() if name in used}


def fault(rules: dict[str, Expression]) -> str:
    """Why finite rules cannot be followed, in words; empty where they can."""
    if ROOT not in rules:
        return "no text has this form"
    if ROOT not in _fixpoint(rules, _has_text):
        return "only an empty answer has this form"
    if _begins_with_itself(rules):
        return "it refers to itself without end"
    return ""


def _pruned(expression: Expression, ending: Set[str]) -> Expression:
    """What is left of something that can end."""
    if isinstance(expression, Sequence):
        return sequence(_pruned(part, ending) for part in expression.parts)
    if isinstance(expression, Choice):
        return choice(_pruned(option, ending) for option in expression.options if _can_end(option, ending))
    if isinstance(expression, Repeat):
        if not _can_end(expression.part, ending):
            return EMPTY
        return repeat(_pruned(expression.part, ending), expression.least, expression.most)
    return expression


def _reachable(rules: dict[str, Expression]) -> set[str]:
    found, new = set(), {ROOT} & set(rules)
    while new:
        found |= new
        new = {name for known in new for name in _named(rules[known])} - found
    return found


def _named(expression: Expression) -> Iterator[str]:
    """The rules that an expression has in it."""
    if isinstance(expression, Rule):
        yield expression.name
    elif isinstance(expression, Repeat):
        yield from _named(expression.part)
    elif isinstance(expression, (Sequence, Choice)):
        for part in expression.parts if isinstance(expression, Sequence) else expression.options:
            yield from _named(part)


def _fixpoint(rules: dict[str, Expression], holds: Callable[[Expression, Set[str]], bool]) -> Set[str]:
    """The rules of which something holds, where it holds of a rule because of what it names."""
    found: set[str] = set()
    before = -1
    while len(found) > before:
        before = len(found)
        for name, expression in rules.items():
            if name not in found and holds(expression, found):
                found.add(name)  # at once: rules mostly name rules before them
    return found


def _can_end(expression: Expression, ending: Set[str]) -> bool:
    """Whether some text of finite length fits."""
    if isinstance(expression, Rule):
        return expression.name in ending
    if isinstance(expression, Sequence):
        return all(_can_end(part, ending) for part in expression.parts)
    if isinstance(expression, Choice):
        return any(_can_end(option, ending) for option in expression.options)
    if isinstance(expression, Repeat):
        return expression.least == 0 or _can_end(expression.part, ending)
    return True


def _has_text(expression: Expression, having: Set[str]) -> bool:
    """Whether a text with a character in it fits."""
    if isinstance(expression, Rule):
        return expression.name in having
    if isinstance(expression, Sequence):
        return any(_has_text(part, having) for part in expression.parts)
    if isinstance(expression, Choice):
        return any(_has_text(option, having) for option in expression.options)
    if isinstance(expression, Repeat):
        return expression.most != 0 and _has_text(expression.part, having)
    return isinstance(expression, OneOf) or expression.text != ""


def _may_be_empty(expression: Expression, empty: Set[str]) -> bool:
    if isinstance(expression, Rule):
        return expression.name in empty
    if isinstance(expression, Sequence):
        return all(_may_be_empty(part, empty) for part in expression.parts)
    if isinstance(expression, Choice):
        return any(_may_be_empty(option, empty) for option in expression.options)
    if isinstance(expression, Repeat):
        return expression.least == 0 or _may_be_empty(expression.part, empty)
    return isinstance(expression, Text) and expression.text == ""


def _begins_with_itself(rules: dict[str, Expression]) -> bool:
    empty = _fixpoint(rules, _may_be_empty)
    try:
        TopologicalSorter({name: set(_beginnings(rule, empty)) for name, rule in rules.items()}).prepare()
    except CycleError:
        return True
    return False


def _beginnings(expression: Expression, empty: Set[str]) -> Iterator[str]:
    """The rules that may come before any character."""
    if isinstance(expression, Rule):
        yield expression.name
    elif isinstance(expression, Choice):
        for option in expression.options:
            yield from _beginnings(option, empty)
    elif isinstance(expression, Repeat):
        yield from _beginnings(expression.part, empty)
    elif isinstance(expression, Sequence):
        for part in expression.parts:
            yield from _beginnings(part, empty)
            if not _may_be_empty(part, empty):
                return

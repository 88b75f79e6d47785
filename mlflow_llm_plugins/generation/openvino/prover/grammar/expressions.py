"""What a grammar is made of."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import Characters


@dataclass(frozen=True, slots=True)
class Text:
    """These characters; "" is the empty text."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """A single character of several."""

    characters: Characters


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of them; of none, nothing fits."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same several times."""

    part: Expression
    least: int
    most: int | None  # None: any number


@dataclass(frozen=True, slots=True)
class Rule:
    """What the grammar has under a name."""

    name: str


Expression = Text | OneOf | Sequence | Choice | Repeat | Rule


@dataclass(slots=True)
class Grammar:
    """Rules by name, and where to begin; built by one thread."""

    rules: dict[str, Expression] = field(default_factory=dict)

    def new_rule(self, expression: Expression | None = None) -> Rule:
        """A rule of its own; without an expression one that is to be defined, and may be named before."""
        name = f"r{len(self.rules)}"
        self.rules[name] = Choice(()) if expression is None else expression
        return Rule(name)

    def define(self, rule: Rule, expression: Expression) -> None:
        """Say what a rule stands for."""
        self.rules[rule.name] = expression


EMPTY = Text("")
NOTHING = Choice(())


def characters(allowed: Characters) -> Expression:
    """One of these characters, in the shortest way to say so."""
    if not allowed:
        return NOTHING
    return Text(allowed.only) if allowed.only else OneOf(allowed)


def sequence(parts: Iterable[Expression]) -> Expression:
    """One after another, without sequences in it and with neighbouring texts as one."""
    flat: list[Expression] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        for piece in part.parts if isinstance(part, Sequence) else (part,):
            if isinstance(piece, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].text + piece.text)
            elif piece != EMPTY:
                flat.append(piece)
    if not flat:
        return EMPTY
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat))


def choice(options: Iterable[Expression]) -> Expression:
    """Any one of them, each once, those that nothing fits left out, what texts begin with alike said once.

    The xgrammar of openvino-genai 2026.4.1 mixes up options that begin alike.
    """
    kept = tuple(dict.fromkeys(_factored([option for option in options if option != NOTHING])))
    return kept[0] if len(kept) == 1 else Choice(kept)


def _factored(options: list[Expression]) -> Iterator[Expression]:
    """The options, those whose texts have the same first character as one, in the place of the first of them."""
    alike: dict[str, list[Expression]] = {}
    for index, option in enumerate(options):
        alike.setdefault(_beginning(option)[:1] or f"{index} has no text", []).append(option)
    for members in alike.values():
        if len(members) == 1:
            yield members[0]
            continue
        common = os.path.commonprefix([_beginning(option) for option in members])  # noqa: RUF071 - of characters
        yield sequence([Text(common), choice(_without(option, len(common)) for option in members)])


def _beginning(option: Expression) -> str:
    """The text that it begins with in any case; empty where there is none."""
    first = option.parts[0] if isinstance(option, Sequence) else option
    return first.text if isinstance(first, Text) else ""


def _without(option: Expression, characters: int) -> Expression:
    """What follows so many characters of its beginning."""
    rest = Text(_beginning(option)[characters:])
    return sequence([rest, *option.parts[1:]]) if isinstance(option, Sequence) else rest


def repeat(part: Expression, least: int, most: int | None) -> Expression:
    """The same several times."""
    if part == NOTHING or most == 0:
        return NOTHING if least else EMPTY
    return part if (least, most) == (1, 1) else Repeat(part, least, most)


def separated(part: Expression, least: int, most: int | None) -> Expression:
    """The same several times, with a comma between."""
    if most == 0:
        return EMPTY
    following = repeat(sequence([Text(","), part]), max(0, least - 1), None if most is None else most - 1)
    some = sequence([part, following])
    return some if least else choice([EMPTY, some])

"""Keywords of JSON Schema as the library `jsonschema` checks them, but within a time that is set for each value.

The library's own take as long as they like: `re` can run for ever on some names and strings, and looking for equal
items compares each with each.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from mlflow_llm_plugins.metrics.packages import require

Keyword = Callable[[Any, Any, Any, Any], "Iterator[Any] | None"]  # validator, rule, instance, schema -> errors
NESTED = 128  # keywords inside one another; each costs three of Python's frames, of which there are 1,000


class NestedTooDeeplyError(Exception):
    """More keywords stand inside one another than are followed."""


class Limits(threading.local):
    """When the check of a thread's value must have ended, and how deep in the schema it is."""

    def __init__(self) -> None:
        """No value is checked yet."""
        self._end = 0.0
        self._depth = 0

    def start(self, seconds: float) -> None:
        """Give the next value so many seconds."""
        self._end = time.monotonic() + seconds
        self._depth = 0

    @contextlib.contextmanager
    def one_deeper(self) -> Iterator[None]:
        """Within it, a keyword is checked.

        Raises:
            TimeoutError: No time is left.
            NestedTooDeeplyError: It stands inside too many others.
        """
        self.left()
        if self._depth >= NESTED:
            raise NestedTooDeeplyError
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def left(self) -> float:
        """Seconds that are left, more than 0.

        Raises:
            TimeoutError: None are left.
        """
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds


def timed_keywords(keywords: Mapping[str, Keyword], limits: Limits) -> dict[str, Keyword]:
    """All keywords of a draft, within the limits of `Limits.one_deeper`; those of `re` use `regex` instead."""
    own: dict[str, Keyword] = {
        "pattern": _pattern(limits),
        "patternProperties": _pattern_properties(limits),
        "additionalProperties": _additional_properties(limits),
        "uniqueItems": _unique_items,
    }
    return {name: _timed(own.get(name, keyword), limits) for name, keyword in keywords.items()}


def is_pattern(text: str) -> bool:
    """Whether the keywords can match by it."""
    regex = require("regex")
    try:
        regex.compile(text)
    except regex.error:
        return False
    return True


def _timed(keyword: Keyword, limits: Limits) -> Keyword:
    def check(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
        with limits.one_deeper():
            yield from keyword(validator, rule, instance, schema) or ()

    return check


def _pattern(limits: Limits) -> Keyword:
    def check(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
        if validator.is_type(instance, "string") and not _found(pattern, instance, limits):
            yield _error("no match")

    return check


def _pattern_properties(limits: Limits) -> Keyword:
    def check(validator: Any, rules: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "object"):
            return
        for pattern, rule in rules.items():
            for name, value in instance.items():
                if _found(pattern, name, limits):
                    yield from validator.descend(value, rule, path=name, schema_path=pattern)

    return check


def _additional_properties(limits: Limits) -> Keyword:
    def check(validator: Any, rule: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
        if rule is True or not validator.is_type(instance, "object"):
            return
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, value in instance.items():
            if name in known or any(_found(pattern, name, limits) for pattern in patterns):
                continue
            if rule is False:  # the library finds this fault in the whole object, not in what it holds
                yield _error("additional properties")
                return
            yield from validator.descend(value, rule, path=name)

    return check


def _unique_items(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if rule and validator.is_type(instance, "array") and len(set(map(_identity, instance))) < len(instance):
        yield _error("equal items")


def _identity(value: Any) -> Hashable:
    """Equal for what JSON Schema calls equal: 1 and 1.0, but not 1 and true; objects in any order of their names."""
    if isinstance(value, Mapping):
        return Mapping, frozenset((name, _identity(item)) for name, item in value.items())
    if isinstance(value, list):
        return list, tuple(map(_identity, value))
    return isinstance(value, bool), value


def _found(pattern: str, text: str, limits: Limits) -> bool:
    return require("regex").search(pattern, text, timeout=limits.left()) is not None


def _error(message: str) -> Any:
    return require("jsonschema").ValidationError(message)

"""Names to objects: rows of a table, "package.module:Name", and what was meant instead of a typo."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string when nothing known is near; upper case counts as lower."""
    near = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def is_importable(module: str) -> bool:
    """Whether the module could be imported; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False


def resolve(name: str, table: Mapping[str, str], what: str) -> Any:
    """The object behind `name`.

    Args:
        name: A key of `table`, or "package.module:Name" for one from outside.
        table: Name -> "package.module:Name"; the module is imported only now.
        what: What is looked up, for the message, for example "engine".

    Raises:
        InvalidInputError: The name is not in the table, or the path leads nowhere.
    """
    path = table.get(name, name)
    module_name, separator, attribute = path.partition(":")
    if not separator:
        raise InvalidInputError(
            f"Unknown {what} {name!r}.{did_you_mean(name, table)} "
            f"Known: {', '.join(sorted(table))}; or 'package.module:Name' for one of your own."
        )
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InvalidInputError(f"{what} {name!r} cannot be loaded: it must be written 'package.module:Name'.")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        if name in table:
            raise
        raise InvalidInputError(f"{what} {name!r} cannot be loaded: {error}") from error

"""The routes that can be asked: how a prompt is written for each, and whether it can stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of route."""

    prompt: Callable[[str | list[int]], Body]  # a prompt to the part of a body that holds it
    takes_token_ids: bool
    can_stream: bool


def _messages(prompt: str | list[int]) -> Body:
    return {"messages": [{"role": "user", "content": prompt}]}


def _prompt(prompt: str | list[int]) -> Body:
    return {"prompt": prompt}


# By how the path ends, so that prefixes such as /invocations/v1 are served too; the first that fits counts.
ROUTES: dict[str, Route] = {
    "/chat/completions": Route(_messages, takes_token_ids=False, can_stream=True),
    "/completions": Route(_prompt, takes_token_ids=True, can_stream=True),
    "/invocations": Route(_messages, takes_token_ids=False, can_stream=False),  # MLflow's scoring server
}


def route_of(path: str) -> Route | None:
    """The route that a path leads to, or None where none of `ROUTES` fits."""
    return next((route for ending, route in ROUTES.items() if path.endswith(ending)), None)

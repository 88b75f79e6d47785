"""Requests of both formats with a question of each type, and JSON of any shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api.decisions import DecisionLimits

LIMITS = DecisionLimits()
SECRET = "the launch code is 4711"

SYSTEMONE: dict[str, Any] = {
    "model": "jev-latest",
    "state": {"message": "I was charged twice.", "channel": "mail"},
    "questions": {
        "refund": {"type": "noul", "instructions": "Is a refund asked for?"},
        "team": {"type": "choice", "instructions": "Who answers?", "criteria": {"billing": "money", "tech": None}},
        "urgency": {"type": "score", "instructions": "How urgent?", "criteria": ["can wait", {"in": "a week"}, "now"]},
    },
}

DECISIONS: dict[str, Any] = {
    "model": "gpt-6-luna",
    "input": "I was charged twice.",
    "questions": [
        {"type": "predicate", "name": "refund", "instructions": "A refund is asked for."},
        {
            "type": "choice",
            "name": "team",
            "instructions": "Who answers?",
            "choices": [{"value": "billing", "description": "money"}, {"value": True}, {"value": "true"}],
        },
        {
            "type": "score",
            "instructions": "How urgent?",
            "levels": [{"label": "low", "description": "can wait"}, {"label": "high"}],
        },
    ],
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_half_a_pair = st.just("\ud800")  # as JSON's "\\ud800" is read
_secrets = st.sampled_from([SECRET, [SECRET], {"a": SECRET}, {"type": SECRET}, [[SECRET]], {"value": [SECRET]}])


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """The body with one to three of its values replaced, dropped or joined by others."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(body))))
        change = draw(st.sampled_from(["replace", "drop", "join"]))
        if change == "drop":
            del holder[key]
        elif change == "replace":
            holder[key] = copy.deepcopy(draw(json_values | _half_a_pair | _secrets))
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5))] = copy.deepcopy(draw(json_values | _secrets))
        else:
            holder.append(copy.deepcopy(holder[key]))
        if not body:
            break
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within, as what holds it and its key there."""
    keyed = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(keyed):
        yield value, key
        yield from _places(inner)

"""What is told of an error that a library raised."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.generation.openvino.library_errors import library_reason

PLACE = "[12:00:00] /x/grammar.cc:42: "
RAISED = "Exception from src/core/a.cpp:10:\n"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (f"{RAISED}Check 'size > 0' failed at src/b.cpp:37:\nThe size is zero.\n\n", "The size is zero"),
        (f"{PLACE}Check failed: (a(b)) is false: The rule root is not found", "The rule root is not found"),
        (f"{PLACE}EBNF parser error at line 1: no such rule", "EBNF parser error at line 1: no such rule"),
        (f"{RAISED}Check 'ok' failed at src/b.cpp:37", "Check 'ok' failed at src/b.cpp:37"),
        ("std::bad_alloc", "std::bad_alloc"),
        ("", "RuntimeError"),
    ],
    ids=["assertion", "check with a message", "place", "check alone", "plain", "nothing"],
)
def test_the_message_is_told_without_the_place_in_the_sources(message, reason):
    assert library_reason(RuntimeError(message)) == reason

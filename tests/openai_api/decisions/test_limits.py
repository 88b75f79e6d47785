"""Limits are what can be kept, and nothing else."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.decisions import DecisionLimits


@pytest.mark.parametrize("name", ["max_questions", "max_options", "max_levels", "max_depth"])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(InvalidInputError, match=rf"^{name} must be (at least 1|from 1 to \d+), got 0\.$"):
        DecisionLimits(**{name: 0})


@pytest.mark.parametrize(("name", "most"), [("max_options", 676), ("max_levels", 10), ("max_depth", 100)])
def test_a_limit_beyond_what_works_is_refused(name, most):
    assert getattr(DecisionLimits(**{name: most}), name) == most
    with pytest.raises(InvalidInputError) as refusal:
        DecisionLimits(**{name: most + 1})
    assert str(refusal.value) == f"{name} must be from 1 to {most}, got {most + 1}."


def test_questions_have_no_upper_limit_of_their_own():
    assert DecisionLimits(max_questions=4096).max_questions == 4096

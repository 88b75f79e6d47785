"""Limits from environment variables."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.settings import ServingSettings, variable


def test_variables_set_fields_and_empty_ones_do_not():
    settings = ServingSettings.from_environment(
        {"MLFLOW_LLM_MAX_BODY_BYTES": "2048", "MLFLOW_LLM_MAX_STOP": "", "MLFLOW_LLM_DRAIN_TIMEOUT_S": "0.5"}
    )
    assert (settings.max_body_bytes, settings.drain_timeout_s) == (2048, 0.5)
    assert settings.max_stop == ServingSettings().max_stop


@pytest.mark.parametrize("value", ["many", "0", "-1"])
def test_a_value_that_is_not_allowed_is_named_with_its_field(value):
    with pytest.raises(InvalidInputError, match=rf"environment \(MLFLOW_LLM_\*\): max_prompts='{value}'"):
        ServingSettings.from_environment({variable("max_prompts"): value})

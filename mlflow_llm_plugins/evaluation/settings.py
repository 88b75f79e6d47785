"""What can be set in `evaluator_config` of the evaluator `llm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mlflow_llm_plugins.evaluation.invitation import NAME
from mlflow_llm_plugins.settings import Settings


class EvaluatorSettings(Settings):
    """Settings of one evaluation."""

    metrics: list[Any] | None = Field(
        None,
        description="Names or objects of the metrics, instead of those of the model type; extra_metrics are added.",
    )
    col_mapping: dict[str, Any] = Field(
        default_factory=dict,
        description="What metrics and the model call a column -> its name in the data, for example "
        "{'inputs': 'question'}; as the default evaluator has it.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of each request, for example {'max_tokens': 64}."
    )
    max_in_flight: int | None = Field(
        None,
        ge=1,
        description="Rows that a language model or endpoint answers at the same time; None: its own number.",
    )
    max_workers: int = Field(
        8, ge=1, le=256, description="Rows that another model or a function is asked for at the same time, by threads."
    )
    max_error_rate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Above this share of rows without an answer the evaluation fails, once it is logged.",
    )
    latency_sample_size: int = Field(
        16, ge=1, description="Rows, drawn at random, that latency metrics ask for one at a time."
    )
    metric_prefix: str = Field("", description="Before the name of each metric and of the table's file.")
    plots: bool = Field(True, description="Draw latencies and scores.")
    progress: bool = Field(True, description="Show progress on a terminal.")


def parse_settings(raw: Mapping[str, Any] | None) -> EvaluatorSettings:
    """Read `evaluator_config`, also where MLflow leaves it nested under the evaluator's name.

    Raises:
        InvalidInputError: An unknown key or a bad value; the message says what is allowed.
    """
    config = raw or {}
    if isinstance(config, Mapping) and set(config) == {NAME} and isinstance(config[NAME], Mapping):
        config = config[NAME]
    return EvaluatorSettings.parse(config, "evaluator_config")

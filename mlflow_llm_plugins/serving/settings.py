"""The limits of a server, each from an environment variable: `MLFLOW_LLM_` and the name of the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import Self

from mlflow_llm_plugins.settings import Settings

PREFIX = "MLFLOW_LLM_"


class ServingSettings(Settings):
    """What a server allows. None means that only the engine's own limit holds."""

    max_queue_size: int | None = Field(
        None, ge=1, description="Answers that may be open, waiting or running; one more is refused (429)."
    )
    max_streams: int = Field(512, ge=1, description="Streams that may be open; one more is refused (429).")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="Bytes of a request's body, unpacked (413).")
    max_json_depth: int = Field(64, ge=4, le=500, description="Lists and objects inside one another.")
    max_json_values: int = Field(500_000, ge=100, description="Values in a body, of all depths together.")
    max_prompts: int = Field(256, ge=1, description="Prompts of one completion request.")
    max_prompt_tokens: int | None = Field(None, ge=1, description="Tokens of a prompt.")
    max_new_tokens: int | None = Field(None, ge=1, description="New tokens that a request may ask for.")
    max_choices: int = Field(128, ge=1, le=128, description="`n`: answers to one prompt.")
    max_answers: int = Field(1024, ge=1, description="Answers of one request: its prompts times `n`.")
    max_stop: int = Field(16, ge=1, description="Stop strings of a request.")
    max_questions: int = Field(64, ge=1, le=400, description="Typed decisions of one request (413).")
    max_options: int = Field(255, ge=2, le=255, description="Options of a choice.")
    max_levels: int = Field(10, ge=2, le=10, description="Levels of a score.")
    max_scored_tokens: int = Field(
        2**17,
        ge=1,
        description="Tokens of all prompts of one request that are scored: decisions, or `echo` with "
        "`logprobs` (413).",
    )
    decision_layout: Literal["auto", "state_first", "question_first"] = Field(
        "auto",
        description="What a decision's prompt begins with; auto: with the question where a request has one, with the "
        "state where it has several. Answers move with it.",
    )
    request_timeout_s: float | None = Field(
        None,
        gt=0,
        description="Seconds after which a request ends with an error (504) and its slots are free. By default the "
        "`--timeout` of `mlflow models serve`, 60.",
    )
    drain_timeout_s: float = Field(30, ge=0, description="Seconds that open requests get after a SIGTERM.")
    ping_interval_s: float = Field(15, gt=0, description="Seconds of silence after which a stream sends a comment.")
    max_threads: int = Field(32, ge=1, description="Threads for `/invocations` with rows, one a request.")

    log_prompts: bool = Field(False, description="Log the bodies of requests, prompts and all.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables that are set and not empty.

        Raises:
            InvalidInputError: Names each variable with a value that is not allowed, and what is.
        """
        given = {name: environ[variable(name)] for name in cls.model_fields if environ.get(variable(name))}
        return cls.parse(given, f"environment ({PREFIX}*)")


def variable(field: str) -> str:
    """The name of the environment variable of a field, for example `MLFLOW_LLM_MAX_BODY_BYTES`."""
    return PREFIX + field.upper()

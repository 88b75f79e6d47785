"""Settings of judges that are asked from here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from mlflow_llm_plugins.settings import Settings

Route = Literal["systemone", "decisions", "chat"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(
    r"headers?$|keys?$|secret|passw|passphrase|auth(?!or)|authorization|bearer|cookie|credentials?$|token$|sig$|signature"
)
_IN_A_ROW = "After so many questions in a row without any answer the rest is not asked."


class _JudgeSettings(Settings):
    """Messages show numbers and no texts: any of them may be a key in the wrong place."""

    @classmethod
    def _describe(cls, problem: Any) -> str:
        is_number = isinstance(problem["input"], int | float)
        return super()._describe(problem if is_number else {**problem, "input": "..."})


class ServerSettings(_JudgeSettings):
    """Of a judge behind a URL."""

    model: str | None = Field(None, min_length=1, description="Its name there; None: the one that the server has.")
    api_key_env: str | None = Field(
        None, min_length=1, description="Variable with the key; None: OPENAI_API_KEY, where it is set."
    )
    api_key_file: str | None = Field(None, min_length=1, description="File with the key in its first line.")
    route: Route | None = Field(None, description="How it is asked; None: the first of these that it has.")
    max_in_flight: int = Field(16, ge=1, le=1024, description="Questions that are open at once.")
    connect_timeout_s: float = Field(5, gt=0, description="Seconds that a connection may take.")
    timeout_s: float = Field(60, gt=0, description="Seconds that one try may take.")
    deadline_s: float = Field(180, gt=0, description="Seconds that a question may take, with all its tries.")
    max_tokens: int | None = Field(
        None, ge=1, description="Bound of an answer that is written, verdict and rationale; None: the server's own."
    )
    max_unanswered: int = Field(3, ge=1, description=_IN_A_ROW)

    @field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, name: str | None) -> str | None:
        if name is not None and not _VARIABLE.fullmatch(name):
            raise ValueError("must be the name of a variable that holds the key, such as JUDGE_API_KEY, not the key.")
        return name


class DeploymentSettings(ServerSettings):
    """Of a judge that a client of `mlflow.deployments` knows."""

    target: str | None = Field(
        None, min_length=1, description="Of the client; None: MLFLOW_DEPLOYMENTS_TARGET, else `local`."
    )


class MlflowSettings(_JudgeSettings):
    """Of a judge that MLflow asks."""

    max_in_flight: int = Field(8, ge=1, le=1024, description="Questions that are open at once.")
    num_retries: int = Field(3, ge=0, le=10, description="Tries after the first one.")
    base_url: str | None = Field(None, min_length=1, description="Whole URL of the chat route, in place of its own.")
    inference_params: dict[str, Any] | None = Field(
        None, description="Such as temperature; None: temperature 0, where the model takes it."
    )
    max_unanswered: int = Field(3, ge=1, description=_IN_A_ROW)


def without_secrets(params: Mapping[str, Any]) -> dict[str, Any]:
    """For the record: of headers, keys and the like the names alone, however deep they stand."""
    return {
        name: _names(value) if _SECRET.search(str(name).lower()) else _shown(value) for name, value in params.items()
    }


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secrets(value)
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def _names(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, Mapping) else "not shown"

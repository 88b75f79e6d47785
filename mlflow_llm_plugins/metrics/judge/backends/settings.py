"""Settings of judges that are asked from here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mlflow_llm_plugins.settings import Settings

Route = Literal["systemone", "decisions", "chat"]


class ServerSettings(Settings):
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


class DeploymentSettings(ServerSettings):
    """Of a judge that a client of `mlflow.deployments` knows."""

    target: str | None = Field(
        None, min_length=1, description="Of the client; None: MLFLOW_DEPLOYMENTS_TARGET, else `local`."
    )


class MlflowSettings(Settings):
    """Of a judge that MLflow asks."""

    max_in_flight: int = Field(8, ge=1, le=1024, description="Questions that are open at once.")
    num_retries: int = Field(3, ge=0, le=10, description="Tries after the first one.")
    base_url: str | None = Field(None, min_length=1, description="Whole URL of the chat route, in place of its own.")
    inference_params: dict[str, Any] | None = Field(
        None, description="Such as temperature; None: temperature 0, where the model takes it."
    )

"""Our exceptions, and the one table from them to MLflow error codes (so to HTTP statuses).

    LLMError
      InvalidInputError            what the caller gave cannot be used; the message says what can
        PromptTooLongError         the request can never fit the context or the cache
        UnsupportedFeatureError    a parameter that this engine or model cannot honour
      ResourceExistsError          a name that is taken
      ResourceNotFoundError        a name that nothing has
      CheckpointError              a checkpoint that cannot be read or is not a causal language model
      AccessDeniedError            a token or API key is missing or wrong, or a licence must be accepted
        UnauthenticatedError       a server of ours did not know the key
      MissingDependencyError       a package that must be installed; the message has the pip command
      HardwareError                this machine cannot run what was asked for
      QueueFullError               as many requests as allowed are open already
      RequestTimeoutError          the deadline of a request passed
      RequestCancelledError        the caller cancelled it
      EngineUnavailableError       the engine is closed or its thread died
        EngineLostError            it ended while it worked on the request, which may have run in part
      GenerationError              the engine failed on this request, for example on NaN logits
      DeploymentError              a server that did not become ready
        DeploymentBusyError        another command is in the way

Inner layers raise these; only plugs turn them into `MlflowException`, through `mlflow_errors()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LLMError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidInputError(LLMError, ValueError):
    """What the caller gave cannot be used."""

    def __init__(self, *args: object, param: str | None = None) -> None:
        """Tell what is wrong.

        Args:
            args: The message.
            param: The field of a request that it is about, as OpenAI's errors name it.
        """
        super().__init__(*args)
        self.param = param


class PromptTooLongError(InvalidInputError):
    """The request can never fit the model's context or the engine's cache."""


class UnsupportedFeatureError(InvalidInputError):
    """A parameter that this engine or model cannot honour; it is refused rather than ignored."""


class ResourceExistsError(InvalidInputError):
    """The name is taken."""


class ResourceNotFoundError(InvalidInputError):
    """Nothing has the name."""


class CheckpointError(LLMError):
    """A checkpoint that cannot be read, or that is not a causal language model."""


class AccessDeniedError(LLMError):
    """The Hub or a server refused: no valid token or API key, or the licence of a repository is not accepted."""


class UnauthenticatedError(AccessDeniedError):
    """A server asks for an API key that it did not get."""


class MissingDependencyError(LLMError, ImportError):
    """A package that must be installed first."""


class HardwareError(LLMError):
    """This machine cannot run what was asked for."""


class QueueFullError(LLMError):
    """As many requests as allowed are open already."""


class RequestTimeoutError(LLMError, TimeoutError):
    """The deadline of a request passed; its slot is free again."""


class RequestCancelledError(LLMError):
    """The caller cancelled the request."""


class EngineUnavailableError(LLMError):
    """The engine is closed, or its thread died."""


class EngineLostError(EngineUnavailableError):
    """The engine ended while it worked on the request, or might have."""


class GenerationError(LLMError):
    """The engine failed on this request; its neighbours go on."""


class DeploymentError(LLMError):
    """A deployment could not be brought into the state that was asked for; the message has its reason."""


class DeploymentBusyError(DeploymentError):
    """Another command is changing the deployment."""


def located(error: LLMError, where: str) -> LLMError:
    """The same error, its message with the place in front."""
    return retold(error, f"{where}: {error}")


def retold(error: LLMError, message: str) -> LLMError:
    """The same error in other words."""
    told = type(error)(message)
    told.__dict__.update(error.__dict__)
    return told


ERROR_CODES: dict[type[LLMError], str] = {
    InvalidInputError: "INVALID_PARAMETER_VALUE",  # HTTP 400
    ResourceExistsError: "RESOURCE_ALREADY_EXISTS",
    ResourceNotFoundError: "RESOURCE_DOES_NOT_EXIST",  # 404
    CheckpointError: "INVALID_PARAMETER_VALUE",
    AccessDeniedError: "PERMISSION_DENIED",  # 403
    UnauthenticatedError: "UNAUTHENTICATED",  # 401
    MissingDependencyError: "INVALID_STATE",  # 500: nothing the caller of a server could mend
    HardwareError: "INVALID_STATE",
    QueueFullError: "RESOURCE_EXHAUSTED",  # 429
    RequestTimeoutError: "DEADLINE_EXCEEDED",  # 504
    RequestCancelledError: "REQUEST_LIMIT_EXCEEDED",  # 429
    EngineUnavailableError: "TEMPORARILY_UNAVAILABLE",  # 503
    GenerationError: "INTERNAL_ERROR",  # 500
    DeploymentError: "INTERNAL_ERROR",
    DeploymentBusyError: "RESOURCE_CONFLICT",  # 409
    LLMError: "INTERNAL_ERROR",
}


def error_code(error: LLMError) -> str:
    """MLflow's name for the error, by its class or the nearest base in `ERROR_CODES`."""
    return next(ERROR_CODES[cls] for cls in type(error).__mro__ if cls in ERROR_CODES)


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Let `LLMError`s leave the block as `MlflowException`s with the same message and the right code."""
    try:
        yield
    except LLMError as error:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import ErrorCode

        raise MlflowException(str(error), error_code=ErrorCode.Value(error_code(error))) from error

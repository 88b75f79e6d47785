"""Our errors reach MLflow, and so HTTP, with the right code and the same words."""

import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins import errors


def all_errors():
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.LLMError)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.PromptTooLongError, 400),
        (errors.CheckpointError, 400),
        (errors.AccessDeniedError, 403),
        (errors.QueueFullError, 429),
        (errors.RequestTimeoutError, 504),
        (errors.EngineUnavailableError, 503),
        (errors.GenerationError, 500),
        (errors.MissingDependencyError, 500),
    ],
)
def test_an_error_becomes_an_mlflow_exception_of_its_status(error, status):
    with pytest.raises(MlflowException) as raised, errors.mlflow_errors():
        raise error("what happened and what to do")
    assert raised.value.get_http_status_code() == status
    assert raised.value.message == "what happened and what to do"
    assert isinstance(raised.value.__cause__, error)


@pytest.mark.parametrize("error", all_errors())
def test_every_error_has_a_code_that_mlflow_knows(error):
    with pytest.raises(MlflowException) as raised, errors.mlflow_errors():
        raise error("x")
    assert raised.value.error_code == errors.error_code(error("x"))


def test_other_exceptions_pass_unchanged():
    with pytest.raises(KeyError), errors.mlflow_errors():
        raise KeyError("x")

"""How our errors reach those who use MLflow: as its exceptions, and on its command line as one line of text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from mlflow_llm_plugins.deployments.cli_input import is_cli
from mlflow_llm_plugins.deployments.local.home import HOME
from mlflow_llm_plugins.errors import InvalidInputError, LLMError, mlflow_errors


@contextmanager
def reported() -> Iterator[None]:
    """Let errors leave the block as MLflow's users expect them.

    `mlflow deployments` prints a traceback for any exception but click's own.
    """
    from mlflow.exceptions import MlflowException

    try:
        with mlflow_errors(), _state_errors():
            yield
    except MlflowException as error:
        if is_cli():
            raise click.ClickException(error.message) from error
        raise


@contextmanager
def _state_errors() -> Iterator[None]:
    """Let what the system says of files leave the block as an error that says what to do."""
    from requests import RequestException

    try:
        yield
    except (LLMError, RequestException):  # some of which are OSErrors, too
        raise
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise InvalidInputError(
            f"The state of deployments cannot be used:{where} {error.strerror or error}. Set {HOME} to a directory on "
            "a local disk that you can read and write, or name one in the target: local:/path."
        ) from error

"""How our errors reach those who use MLflow: as its exceptions, and on its command line as one line of text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from mlflow_llm_plugins.deployments.cli_input import is_cli
from mlflow_llm_plugins.errors import mlflow_errors


@contextmanager
def reported() -> Iterator[None]:
    """Let errors leave the block as MLflow's users expect them.

    `mlflow deployments` prints a traceback for any exception but click's own.
    """
    from mlflow.exceptions import MlflowException

    try:
        with mlflow_errors():
            yield
    except MlflowException as error:
        if is_cli():
            raise click.ClickException(error.message) from error
        raise

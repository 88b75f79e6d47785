"""The packages that the load generator needs beside MLflow's own."""

from __future__ import annotations

import importlib.util

from mlflow_llm_plugins.errors import MissingDependencyError


def require(*packages: str) -> None:
    """Refuse to go on where a package is not installed.

    Raises:
        MissingDependencyError: With the pip command.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"The load generator needs {' and '.join(missing)}: pip install 'mlflow-llm-plugins[all]'"
        )

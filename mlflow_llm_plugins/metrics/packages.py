"""Packages that some metrics need and that the extra `evaluation` brings; imported when a metric is made or scores."""

from __future__ import annotations

import importlib
from typing import Any

from mlflow_llm_plugins.errors import MissingDependencyError

_INSTALL = "pip install 'mlflow-llm-plugins[evaluation]'"


def require(module: str, package: str | None = None) -> Any:
    """The imported module.

    Args:
        module: As in `import`, for example "rouge_score.rouge_scorer".
        package: What the message calls it where that is not the module's first part, for example "rouge-score".

    Raises:
        MissingDependencyError: It, or something that it imports, is not installed; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = package or module.partition(".")[0]
        because = "" if _is_part(error.name, module) else f" ({error})"
        raise MissingDependencyError(f"This metric needs {name}{because}: {_INSTALL}") from error


def _is_part(missing: str | None, module: str) -> bool:
    """Whether what is missing is the module itself or a package around it, not something that it imports."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")

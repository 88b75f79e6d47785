"""The specs that commands write: the first one of a deployment, and the next one after it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.errors import DeploymentError


def first_spec(name: str, config: Mapping[str, Any]) -> Spec:
    """Of a new deployment; its model is still to be found."""
    now = time.time()
    return Spec(
        name=name,
        generation=1,
        token=new_token(),
        model=None,
        config=dict(config),
        created=now,
        updated=now,
    )


def next_spec(view: View, config: Mapping[str, Any], unset: Iterable[str] = ()) -> Spec:
    """Of the next generation: what was asked last and was not refused, with changes; still without a token.

    Args:
        view: Of the deployment.
        config: What is set anew; of settings that are dictionaries the given keys, the others stay.
        unset: Names of settings that get their defaults again.

    Raises:
        DeploymentError: The records are too damaged to go on from.
    """
    base = last_good(view)
    if base is None:
        raise DeploymentError(
            f"Deployment {view.folder.name!r} cannot be updated: {view.damage} Delete it and create it again."
        )
    newest = base if view.spec is None else view.spec
    kept = {name: value for name, value in base.config.items() if name not in set(unset)}
    return base.model_copy(
        update={
            "generation": max(base.generation, newest.generation) + 1,
            "config": {**kept, **{name: _over(kept.get(name), value) for name, value in config.items()}},
            "updated": time.time(),
        }
    )


def _over(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) and isinstance(new, dict) else new


def new_token() -> str:
    """Of a supervisor to come."""
    return uuid.uuid4().hex


def last_good(view: View) -> Spec | None:
    """What was asked last, unless it was refused or its model is gone: then what serves. None: nothing can be read."""
    spec, status = view.spec, view.status
    if status is None or status.serving is None:
        return spec
    was_refused = spec is not None and status.refused is not None and status.refused.generation == spec.generation
    is_gone = spec is None or spec.model is None or not spec.model.path.exists()
    return status.serving if was_refused or is_gone else spec

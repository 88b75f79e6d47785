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
    """Of a new deployment; its model is still to be found. Of settings that are dictionaries, null is not given."""
    now = time.time()
    return Spec(
        name=name,
        generation=1,
        token=new_token(),
        model=None,
        config={name: _over(None, value) for name, value in config.items()},
        created=now,
        updated=now,
    )


def next_spec(view: View, config: Mapping[str, Any], unset: Iterable[str] = ()) -> Spec:
    """Of the next generation: what was asked last and was not refused, with changes; still without a token.

    Args:
        view: Of the deployment.
        config: What is set anew; of settings that are dictionaries the given keys, the others stay, and null takes a
            key out.
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
    if not isinstance(new, dict):
        return new
    merged = {**(old if isinstance(old, dict) else {}), **new}
    return {key: value for key, value in merged.items() if value is not None}


def new_token() -> str:
    """Of a supervisor to come."""
    return uuid.uuid4().hex


def last_good(view: View) -> Spec | None:
    """What was asked last, unless nobody will ever serve it: then what was ready last. None: nothing can be read.

    Nobody will where it was refused, its model is gone, or its supervisor ended before it was ready.
    """
    spec, status = view.spec, view.status
    ready = None if status is None else status.last_ready or status.serving
    if status is None or ready is None:
        return spec
    if spec is None or spec.model is None or not spec.model.path.exists():
        return ready
    was_refused = status.refused is not None and status.refused.generation == spec.generation
    was_left = not view.is_supervised and ready.generation < spec.generation
    return ready if was_refused or was_left else spec

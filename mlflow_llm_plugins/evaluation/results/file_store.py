"""Figures in a tracking store that is a folder, `./mlruns`: each key is a file, which is no folder of others."""

from __future__ import annotations

import logging
from collections.abc import Mapping

_logger = logging.getLogger(__name__)

MAIN = "main"  # the key of a figure behind its own, where others begin with that


def storable(figures: Mapping[str, float], run_id: str, model_id: str | None) -> dict[str, float]:
    """The figures under keys that the run can hold: all as they are, unless its tracking store is a folder.

    There `rouge1` becomes `rouge1/main`, beside `rouge1/v1/mean`, and what would be behind a key that is logged
    already is left out. A warning tells of both.

    Args:
        figures: By their keys.
        run_id: The run, which may have figures already.
        model_id: Of the logged model that they are of, which may have some, too; None where there is none.
    """
    from mlflow import get_tracking_uri
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(get_tracking_uri()):
        return dict(figures)
    logged = _logged(run_id, model_id)
    kept = [key for key in figures if logged.isdisjoint(_folders(key))]
    folders = {folder for key in (*logged, *kept) for folder in _folders(key)}
    names = {key: f"{key}/{MAIN}" if key in folders else key for key in kept}
    stored = {name: figures[key] for key, name in names.items() if name == key or name not in figures}
    _tell([f"{key} as {name}" for key, name in names.items() if name != key], [*figures.keys() - names.keys()])
    return stored


def _logged(run_id: str, model_id: str | None) -> set[str]:
    import mlflow

    keys = set(mlflow.get_run(run_id).data.metrics)
    if model_id is not None:
        keys.update(metric.key for metric in mlflow.get_logged_model(model_id).metrics or ())
    return keys


def _folders(key: str) -> list[str]:
    """`a` and `a/b` of `a/b/c`."""
    parts = key.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _tell(renamed: list[str], left_out: list[str]) -> None:
    told = [f"logged {', '.join(renamed)}"] if renamed else []
    told += [f"not logged {', '.join(sorted(left_out))}"] if left_out else []
    if told:
        _logger.warning(
            "A file store holds no key beside others that begin with it: %s. A database holds all: "
            "mlflow.set_tracking_uri('sqlite:///mlflow.db').",
            "; ".join(told),
        )

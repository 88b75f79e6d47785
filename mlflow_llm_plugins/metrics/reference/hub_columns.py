"""What a script of `evaluate` takes: its columns under its own names, and rows that it can be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import NotScoredError, is_missing, text_of
from mlflow_llm_plugins.metrics.reference.rows import is_list, references_of

_COLUMNS = {"predictions": "predictions", "references": "targets", "sources": "inputs"}  # evaluate's name -> MLflow's


def taken_columns(module: Any, name: str) -> list[str]:
    """The columns that the script takes, by its own names.

    Raises:
        InvalidInputError: It takes others than can be had here.
    """
    features = list(_forms(module)[0])
    unknown = [key for key in features if key not in _COLUMNS]
    if unknown:
        raise InvalidInputError(
            f"evaluate:{name} takes {', '.join(unknown)}; only metrics of predictions, references and sources can be "
            "used here."
        )
    return features


def used_columns(module: Any, name: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What the script takes, under its own names.

    Raises:
        InvalidInputError: One of the columns is not there, or cannot be had here at all.
    """
    features = taken_columns(module, name)
    missing = [_COLUMNS[key] for key in features if _COLUMNS[key] not in columns]
    if missing:
        raise InvalidInputError(f"evaluate:{name} needs the column {' and '.join(map(repr, missing))}.")
    return {key: columns[_COLUMNS[key]] for key in features}


def _forms(module: Any) -> list[Mapping[str, Any]]:
    """The columns' types as the script declares them, in one way or several."""
    return module.features if isinstance(module.features, list) else [module.features]


def text_columns(module: Any) -> set[str]:
    """The columns whose cells are texts, in references also lists of texts, in every form that the script takes."""
    forms = _forms(module)
    return {key for key in forms[0] if all(_is_text_type(form.get(key), key == "references") for form in forms)}


def _is_text_type(feature: Any, or_list: bool) -> bool:
    if or_list and _is_list_type(feature):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return getattr(feature, "dtype", None) in ("string", "large_string")


def unusable(cells: Mapping[str, object], texts: set[str]) -> str | None:
    """Why a row has no score, where that can be told before the script fails on all rows."""
    for key, cell in cells.items():
        name = _COLUMNS[key].removesuffix("s")
        if is_missing(cell):
            return f"the {name} is missing"
        if key in texts:
            try:
                references_of(cell) if key == "references" else text_of(cell, name)
            except NotScoredError as reason:
                return str(reason)
    return None


def as_declared(module: Any, references: list[Any]) -> list[Any]:
    """Each target as a list where the script asks for lists, or where one row has several."""
    takes_lists_only = all(_is_list_type(form["references"]) for form in _forms(module))
    if not takes_lists_only and not any(is_list(cell) for cell in references):
        return references
    return [list(cell) if is_list(cell) else [cell] for cell in references]


def _is_list_type(feature: Any) -> bool:
    return isinstance(feature, list) or type(feature).__name__ in ("Sequence", "List", "LargeList")

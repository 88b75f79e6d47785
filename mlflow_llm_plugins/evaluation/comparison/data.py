"""The data of a comparison, as each variant is asked with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.comparison.prompt_template import PromptTemplate
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.evaluation.predictions.features import INPUT_COLUMNS, Features
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.metric import is_missing

_PROMPT = "prompt"
_NO_GROUP = "(none)"


@dataclass(frozen=True, slots=True)
class ComparedData:
    """What the user gave to all variants."""

    data: Any
    targets: Any
    hidden: frozenset[str] = frozenset()  # columns that no model is asked with

    @classmethod
    def of(cls, data: Any, targets: Any) -> ComparedData:
        """Take what `mlflow.models.evaluate` takes; columns of a table get strings as names.

        Raises:
            InvalidInputError: It is no data, has no rows, several columns of one name, or targets that do not fit.
        """
        if isinstance(data, pd.DataFrame) and not all(isinstance(name, str) for name in data.columns):
            targets = str(targets) if pd.api.types.is_hashable(targets) and targets in data.columns else targets
            data = data.rename(columns=str)
        made = cls(data, targets)
        made._check_form()
        return made

    def without(self, columns: Iterable[str | None], needed: Collection[str]) -> ComparedData:
        """Hide columns from models, unless they are targets, something needs them, or nothing else would be left."""
        if self.frame is None:
            return self
        hidden = {column for column in columns if column in self.frame.columns and column not in needed}
        hidden.discard(self.targets_name)
        is_all = not set(self.frame.columns) - hidden - {self.targets_name}
        return self if is_all else replace(self, hidden=frozenset(map(str, hidden)))

    def check(self, variants: Mapping[str, Variant], group_by: str | None, wanted: str | None) -> None:
        """Refuse what cannot work before a model is loaded.

        Raises:
            InvalidInputError: Names the column or form of data that is missing.
        """
        frame = self.frame
        if frame is not None and isinstance(self.targets, str):
            _check_column(self.targets, frame, "targets")
        if group_by is not None:
            _check_column(group_by, self._needed_frame("group_by"), "group_by")
        for name, variant in variants.items():
            if variant.predictions is not None:
                source = f"models[{name!r}]: predictions"
                _check_column(variant.predictions, self._needed_frame(source), source)
            elif variant.prompt_template is not None:
                self._rendered(name, variant.prompt_template, wanted)

    @property
    def frame(self) -> pd.DataFrame | None:
        """The data as a table, where they are one."""
        found = self.data if isinstance(self.data, pd.DataFrame) else getattr(self.data, "df", None)
        return found if isinstance(found, pd.DataFrame) else None

    @property
    def frame_targets(self) -> Any:
        """The targets of `frame`."""
        return self.targets if isinstance(self.data, pd.DataFrame) else getattr(self.data, "targets", None)

    @property
    def targets_name(self) -> str | None:
        """Of the column of references; None where it has none, or there are none."""
        return self.frame_targets if isinstance(self.frame_targets, str) else None

    @property
    def has_targets(self) -> bool:
        """Whether there are references."""
        return self.targets is not None or self.frame_targets is not None

    def groups(self, column: str) -> list[str]:
        """The value of a column in each row, as text."""
        return [_NO_GROUP if is_missing(cell) else str(cell) for cell in self._needed_frame("group_by")[column]]

    def arguments(self, name: str, variant: Variant, wanted: str | None) -> dict[str, Any]:
        """What `mlflow.models.evaluate` gets for one variant.

        Args:
            name: Of the variant.
            variant: With a template, the column that models are asked with holds prompts.
            wanted: The column that models are asked with, where the user named it.

        Returns:
            `data`, `targets` and `predictions` where there are some, and `col_mapping` to add to that of the user.
        """
        if variant.predictions is not None:
            frame = self._shown(self._needed_frame(name), variant.predictions)
            found = {"data": frame, "targets": self.frame_targets}
            return {**_given(found), "predictions": variant.predictions, "col_mapping": {}}
        if variant.prompt_template is None:
            return {**_given({"data": self._shown_data(), "targets": self.targets}), "col_mapping": {}}
        frame, column = self._rendered(name, variant.prompt_template, wanted)
        return {**_given({"data": frame, "targets": self.frame_targets}), "col_mapping": {"inputs": column}}

    def _rendered(self, name: str, template: str, wanted: str | None) -> tuple[pd.DataFrame, str]:
        source = f"models[{name!r}]: prompt_template"
        frame = self._needed_frame(source)
        parsed = PromptTemplate.parse(template, source)
        parsed.check([str(column) for column in self._features(frame).columns])
        shown = self._shown(frame)
        column = _asked_column(self._features(shown), wanted)
        prompts = pd.Series(parsed.render(frame), index=frame.index, dtype=object)
        return shown.assign(**{column: prompts}), column

    def _features(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.drop(columns=[self.targets_name] if self.targets_name is not None else [])

    def _shown(self, frame: pd.DataFrame, *kept: str) -> pd.DataFrame:
        return frame.drop(columns=[column for column in self.hidden if column not in kept])

    def _shown_data(self) -> Any:
        if not self.hidden or self.frame is None:
            return self.data
        frame = self._shown(self.frame)
        if isinstance(self.data, pd.DataFrame):
            return frame
        import mlflow

        return mlflow.data.from_pandas(frame, targets=self.frame_targets, name=getattr(self.data, "name", None))

    def _needed_frame(self, source: str) -> pd.DataFrame:
        if self.frame is None:
            raise InvalidInputError(
                f"{source} needs data with named columns: a DataFrame or mlflow.data.from_pandas(...), got "
                f"{type(self.data).__name__}."
            )
        return self.frame

    def _check_form(self) -> None:
        known = pd.DataFrame | np.ndarray | list
        is_dataset = hasattr(self.data, "to_evaluation_dataset")
        if not (isinstance(self.data, known) or is_dataset or hasattr(self.data, "toPandas")):
            raise InvalidInputError(
                "data must be a DataFrame, a list, a numpy array or a dataset of mlflow.data, got "
                f"{type(self.data).__name__}."
            )
        rows = self.data if isinstance(self.data, known) else self.frame
        if rows is not None and not len(rows):
            raise InvalidInputError("data has no rows to compare models by; give at least one.")
        if is_dataset and self.targets is not None:
            raise InvalidInputError(
                "targets are named in a dataset: mlflow.data.from_pandas(frame, targets='...'); leave out targets=..."
            )
        if isinstance(self.data, pd.DataFrame) and not isinstance(self.targets, str | None):
            raise InvalidInputError(
                "targets must be the name of a column where data is a DataFrame, got "
                f"{type(self.targets).__name__}. Add it to the data, for example by data.assign(target=...)."
            )
        if self.frame is not None and self.frame.columns.has_duplicates:
            twice = self.frame.columns[self.frame.columns.duplicated()][0]
            raise InvalidInputError(f"data has several columns {twice!r}; rename them.")


def _asked_column(features: pd.DataFrame, wanted: str | None) -> str:
    """Where the model looks for its prompt; a new column where there is none."""
    likely = [name for name in features.columns if name in INPUT_COLUMNS]
    if wanted is None and len(features.columns) > 1 and not likely:
        return _PROMPT
    Features(features).inputs(wanted)  # raises where several may be meant
    return str(wanted or (features.columns[0] if len(features.columns) == 1 else likely[0]))


def _check_column(name: str, frame: pd.DataFrame, source: str) -> None:
    if name not in frame.columns:
        known = [str(column) for column in frame.columns]
        raise InvalidInputError(
            f"{source}: there is no column {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}."
        )


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}

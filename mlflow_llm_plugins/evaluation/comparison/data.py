"""The data of a comparison, as each variant is asked with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.comparison.prompt_template import PromptTemplate
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.evaluation.predictions.features import INPUT_COLUMNS, Features
from mlflow_llm_plugins.lookup import did_you_mean

_PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class ComparedData:
    """What the user gave to all variants."""

    data: Any
    targets: Any

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

    def groups(self, column: str) -> list[str]:
        """The value of a column in each row, as text."""
        return [str(cell) for cell in self._needed_frame("group_by")[column]]

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
            found = {"data": self._needed_frame(name), "targets": self.frame_targets}
            return {**_given(found), "predictions": variant.predictions, "col_mapping": {}}
        if variant.prompt_template is None:
            return {**_given({"data": self.data, "targets": self.targets}), "col_mapping": {}}
        frame, column = self._rendered(name, variant.prompt_template, wanted)
        return {**_given({"data": frame, "targets": self.frame_targets}), "col_mapping": {"inputs": column}}

    def _rendered(self, name: str, template: str, wanted: str | None) -> tuple[pd.DataFrame, str]:
        source = f"models[{name!r}]: prompt_template"
        frame = self._needed_frame(source)
        features = frame.drop(columns=[self.frame_targets] if isinstance(self.frame_targets, str) else [])
        parsed = PromptTemplate.parse(template, source)
        parsed.check([str(column) for column in features.columns])
        column = _asked_column(features, wanted)
        prompts = pd.Series(parsed.render(frame), index=frame.index, dtype=object)
        return frame.assign(**{column: prompts}), column

    def _needed_frame(self, source: str) -> pd.DataFrame:
        if self.frame is None:
            raise InvalidInputError(
                f"{source} needs data with named columns: a DataFrame or mlflow.data.from_pandas(...), got "
                f"{type(self.data).__name__}."
            )
        return self.frame


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

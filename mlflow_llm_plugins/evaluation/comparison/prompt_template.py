"""A prompt with columns of the data in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from string import Formatter
from typing import Any

import pandas as pd

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.metric import is_missing

_DOUBLED = re.compile(
    r"(?<!\{)\{\{\s*([^{}]+?)\s*\}\}(?!\})"
)  # how other templates, MLflow's prompts too, name a column

Part = tuple[str, str | None]  # text, and the column behind it


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Text with `{column}` in it; nothing but whole cells is ever read, unlike by `str.format`."""

    parts: Sequence[Part]
    source: str  # for messages
    doubled: Sequence[str] = ()  # what is between double braces, so plain text

    @classmethod
    def parse(cls, text: str, source: str) -> PromptTemplate:
        """Read a template.

        Args:
            text: `{column}` stands for the row's cell, `{{` and `}}` for braces.
            source: Where it came from, for messages.

        Raises:
            InvalidInputError: A brace that is not closed, an empty field, a conversion or a format.
        """
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise InvalidInputError(f"{source}: {error}. Write '{{{{' for a brace that is meant.") from error
        for _, column, form, conversion in parsed:
            if column is not None and (not column or form or conversion):
                raise InvalidInputError(f"{source}: a field is the name of a column, as {{inputs}}; got {text!r}.")
        return cls([(before, column) for before, column, _, _ in parsed], source, _DOUBLED.findall(text))

    @property
    def columns(self) -> list[str]:
        """The columns in it."""
        return list(dict.fromkeys(column for _, column in self.parts if column is not None))

    def check(self, known: Sequence[str]) -> None:
        """Refuse columns that are not there.

        Raises:
            InvalidInputError: Names them and those that are; also for columns in double braces.
        """
        for column in self.doubled:
            if column in known:
                raise InvalidInputError(
                    f"{self.source}: '{{{{{column}}}}}' is only the text '{{{column}}}', as '{{{{' stands for a "
                    f"brace. Write '{{{column}}}' to fill in the column."
                )
        for column in self.columns:
            if column not in known:
                raise InvalidInputError(
                    f"{self.source}: there is no column {column!r} to fill in.{did_you_mean(column, known)} There "
                    f"are: {', '.join(known)}; write '{{{{' for a brace that is meant."
                )

    def render(self, frame: pd.DataFrame) -> list[str | None]:
        """A prompt a row; None where a cell is missing, so that the row has no answer.

        Raises:
            InvalidInputError: A cell is neither text nor a number.
        """
        cells = {column: [self._text(cell, column) for cell in frame[column]] for column in self.columns}
        return [self._filled({column: cells[column][row] for column in cells}) for row in range(len(frame))]

    def _filled(self, texts: Mapping[str, str | None]) -> str | None:
        if any(text is None for text in texts.values()):
            return None
        return "".join(before + ("" if column is None else str(texts[column])) for before, column in self.parts)

    def _text(self, cell: Any, column: str) -> str | None:
        if is_missing(cell):
            return None
        if isinstance(cell, str | Real):
            return str(cell)
        raise InvalidInputError(
            f"{self.source}: column {column!r} holds {type(cell).__name__}; only text and numbers can be filled in."
        )

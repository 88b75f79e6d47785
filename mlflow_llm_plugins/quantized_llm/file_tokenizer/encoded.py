"""Texts as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Self


class Encoded(dict[str, Any]):
    """`input_ids` and, where they were asked for, `offset_mapping`: of one text, or a list with those of each."""

    def __init__(self, columns: Mapping[str, Any], encodings: Sequence[Any] = ()) -> None:
        """Take the columns, and what tokenizers made of the texts, if that is known."""
        super().__init__(columns)
        self._encodings = encodings

    @classmethod
    def of(cls, encodings: Sequence[Any], *, is_batch: bool, with_offsets: bool) -> Self:
        """Of the encodings of several texts, or that of a single one."""
        columns = {"input_ids": [encoding.ids for encoding in encodings]}
        if with_offsets:
            columns["offset_mapping"] = [encoding.offsets for encoding in encodings]
        return cls(columns if is_batch else {name: rows[0] for name, rows in columns.items()}, encodings)

    @property
    def input_ids(self) -> Any:
        """`list[int]`, or one such list a text."""
        return self["input_ids"]

    def tokens(self, index: int = 0) -> list[str]:
        """How the vocabulary writes the tokens of one of the texts."""
        tokens: list[str] = self._encodings[index].tokens
        return tokens

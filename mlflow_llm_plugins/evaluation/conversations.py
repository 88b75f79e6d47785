"""What rows say: conversations as text, for metrics and judges that read one, and whether something repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

_LONG_WORD = 5


def as_texts(column: Iterable[Any]) -> pd.Series:
    """Each conversation as text, a single message without its role; whatever else a cell holds, as it is."""
    return pd.Series([_text(cell) for cell in column], dtype=object)


def quotes(said: str, cells: Iterable[Any]) -> bool:
    """Whether a text has a longer word of any of the cells, so may repeat what should stay in the table."""
    words = (word for cell in cells for text in _strings(cell) for word in text.split())
    return any(len(word) >= _LONG_WORD and word in said for word in words)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple | np.ndarray):
        for item in value:
            yield from _strings(item)


def _text(cell: Any) -> Any:
    messages: Any = cell.get("messages") if isinstance(cell, Mapping) else cell
    messages = messages.tolist() if isinstance(messages, np.ndarray) else messages
    is_conversation = isinstance(messages, list) and bool(messages) and all(map(_is_message, messages))
    if not is_conversation:
        return cell
    if len(messages) == 1:
        return _content(messages[0])
    return "\n\n".join(f"{message['role']}: {_content(message)}" for message in messages)


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))

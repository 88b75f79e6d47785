"""Bodies of requests: JSON with its limits, and nothing that could not be said back."""

from __future__ import annotations

import importlib
import json
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.failures import BodyTooLargeError

_PUNCTUATION = 100_000  # commas and brackets that may stand in texts
_GZIP = 16 + zlib.MAX_WBITS  # the format, as zlib numbers it


class UnsupportedMediaTypeError(InvalidInputError):
    """The body is of a type or packed in a way that the server does not read."""

    http_status = 415


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse what is not JSON: also a page in a browser may post plain text to a server on this machine.

    Raises:
        UnsupportedMediaTypeError: Names the header and what is allowed.
    """
    unnamed = "" if "origin" in headers else "application/json"  # a page can leave it out, as many programs do
    kind = headers.get("content-type", unnamed).partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaTypeError(f"content-type must be application/json, got {kind[:80]!r}.")


def unpack(raw: bytes, encoding: str, limit: int) -> bytes:
    """A body as it was before it was packed for the way.

    Args:
        raw: As it came.
        encoding: The content-encoding header: "gzip", or "zstd" where Python can (3.14 and newer).
        limit: Bytes that it may have, unpacked.

    Raises:
        UnsupportedMediaTypeError: Another encoding.
        BodyTooLargeError: More bytes.
        InvalidInputError: It is not packed that way.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return raw
    decompressors = _decompressors()
    if name not in decompressors:
        raise UnsupportedMediaTypeError(
            f"content-encoding must be one of {', '.join(decompressors)}, got {name[:80]!r}."
        )
    decompressor = decompressors[name]()
    try:
        body = decompressor.decompress(raw, limit + 1)
    except Exception as error:  # each library has its own
        raise InvalidInputError(f"The body is not packed as {name}.") from error
    if len(body) > limit:
        raise BodyTooLargeError(limit)
    if not decompressor.eof:
        raise InvalidInputError(f"The body is packed as {name}, but its end is missing.")
    if decompressor.unused_data:
        raise InvalidInputError(f"The body is packed as {name}, but more follows behind its end.")
    return bytes(body)


def _decompressors() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {"gzip": partial(zlib.decompressobj, wbits=_GZIP)}
    for module in ("compression.zstd", "backports.zstd"):  # of Python 3.14, and of whoever installed it
        with suppress(ImportError):
            found["zstd"] = importlib.import_module(module).ZstdDecompressor
    return found


def read_json(raw: bytes, max_depth: int, max_values: int = 500_000) -> Any:
    """Parse a body.

    Args:
        raw: UTF-8.
        max_depth: Lists and objects inside one another.
        max_values: Of all depths together, at most about so many: while they are parsed, nothing else runs.

    Raises:
        InvalidInputError: No JSON, too deep, too many values, a number that JSON does not have, or half a surrogate
            pair; the message never shows the body.
    """
    if sum(map(raw.count, (b",", b"[", b"{"))) > max_values + _PUNCTUATION:
        raise InvalidInputError(f"The body has more than {max_values} values (MLFLOW_LLM_MAX_JSON_VALUES).")
    try:
        body = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\u" in raw:
            json.dumps(body, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep(max_depth) from None
    except UnicodeEncodeError:
        raise InvalidInputError(
            "The body has half of a surrogate pair (\\ud800 to \\udfff), which is no text."
        ) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidInputError(f"The body is not valid JSON: {error.msg} at {where}.") from None
    except ValueError as error:
        reason = str(error) if isinstance(error, InvalidInputError) else "it is not UTF-8, or a number is too long."
        raise InvalidInputError(f"The body is not valid JSON: {reason}") from None
    if _depth_exceeds(body, max_depth):
        raise _too_deep(max_depth)
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInputError(f"{name} is not a number of JSON.")


def _too_deep(max_depth: int) -> InvalidInputError:
    return InvalidInputError(f"The body is nested more than {max_depth} deep (MLFLOW_LLM_MAX_JSON_DEPTH).")


def _depth_exceeds(body: Any, limit: int) -> bool:
    """Level by level, so that depth costs no stack."""
    level = [body]
    for _ in range(limit):
        level = [child for value in level if (children := _CHILDREN.get(type(value))) for child in children(value)]
        if not level:
            return False
    return any(isinstance(value, list | dict) for value in level)


_CHILDREN: dict[type, Callable[[Any], Any]] = {list: iter, dict: dict.values}

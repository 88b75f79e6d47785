"""What a server says: kept in files that do not grow for ever, and the last of it in memory, for messages."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

_KEPT = 64 * 1024  # bytes in memory
_NEWEST = 4 * 1024  # of these, where only the last line is looked for
_UNSHOWN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, moves of the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # links, titles
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
_TRACEBACK = "Traceback (most recent call last)"
_RAISED = re.compile(
    r"^(?:(?:[A-Za-z_]\w*\.)+[A-Z]\w*|(?:[A-Z]\w*)?(?:Error|Exception|Exit|Interrupt))(?::.*)?$", re.MULTILINE
)
_ERROR = re.compile(r"\b(?:ERROR|CRITICAL)\b")
# `mlflow models serve` (3.17) ends with an exception of its own, whatever its server died of.
_OF_THE_COMMAND = re.compile("returned non zero return code|Non-zero exit code")


class ServerLog:
    """The output of a server; for one thread. Several of them may share a path.

    Nothing that goes wrong with the files is raised: a server stands still when nobody reads what it says.
    """

    def __init__(self, path: Path, max_bytes: int = 5 * 2**20, files: int = 3, echo: BinaryIO | None = None) -> None:
        """Go on where the file ends.

        Args:
            path: Of the newest file; older ones are `path.1` and so on. Only their owner may read them.
            max_bytes: Size at which the next file begins. Lines stay whole, unless one is longer than that.
            files: How many are kept, two or more.
            echo: A stream that gets all bytes too.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._echo = echo
        self._file: io.FileIO | None = None
        self._recent = bytearray()
        self._begins_in_a_line = False  # what is in memory
        self._append(b"")

    def write(self, chunk: bytes) -> None:
        """Take the next bytes, which may end anywhere."""
        self._remember(chunk)
        self._repeat(chunk)
        line_end = chunk.find(b"\n") + 1
        size = self._size + len(chunk)
        if size > self._max_bytes and (line_end or size > 2 * self._max_bytes):
            self._append(chunk[:line_end])
            self._rotate()
            chunk = chunk[line_end:]
        self._append(chunk)

    def mute(self) -> None:
        """Echo no more."""
        self._echo = None

    def tail(self, lines: int = 40) -> str:
        """The last lines, without colours; of a progress bar its last state."""
        found = _lines(self._recent)
        whole = found[1:] if self._begins_in_a_line and len(found) > 1 else found
        return "\n".join(whole[-lines:])

    def last_line(self) -> str:
        """The last line that is not empty, even if it is not complete; empty: nothing has been said."""
        return next((line for line in reversed(_lines(self._recent[-_NEWEST:])) if line), "")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    @property
    def _size(self) -> int:
        return 0 if self._file is None else self._file.tell()

    def _append(self, data: bytes) -> None:
        with suppress(OSError):  # a full disk
            if self._file is None:
                self._file = io.FileIO(self._path, "a", opener=_private)
            self._file.write(data)

    def _rotate(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._files))]
        if self._is_newest():
            for newer, older in reversed(list(pairwise(names))):
                with suppress(OSError):  # mostly there is no such file yet
                    newer.replace(older)
        self.close()

    def _is_newest(self) -> bool:
        """False: the log of another server has renamed the file meanwhile."""
        with suppress(OSError):
            return self._file is not None and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        return False

    def _remember(self, chunk: bytes) -> None:
        self._recent += chunk
        if len(self._recent) > _KEPT:
            self._begins_in_a_line = True
            del self._recent[:-_KEPT]

    def _repeat(self, chunk: bytes) -> None:
        if self._echo is not None:
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                self._echo.write(chunk)
                self._echo.flush()


def cause(tail: str) -> str:
    """The one line that explains why a server died: the exception of the last traceback, else an error, else the end.

    Args:
        tail: Of its log, without colours.
    """
    for part in reversed(tail.split(_TRACEBACK)):
        if (raised := _RAISED.search(part)) and not _OF_THE_COMMAND.search(raised[0]):
            return raised[0]
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines or [""])[-1]


def _lines(data: bytearray) -> list[str]:
    text = _UNSHOWN.sub("", data.decode("utf-8", errors="replace"))
    return [_last_state(line) for line in text.rstrip().split("\n")]


def _last_state(line: str) -> str:
    """What stands after the last carriage return, but for those that clear the line."""
    return next((state.rstrip() for state in reversed(line.split("\r")) if state.strip()), "")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""Digests of large files, remembered, so that each file is read once and not at every start."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_CHUNK = 2**22
_MOST = 1000  # digests that are remembered; those made longest ago go first
_SETTLED_NS = 2 * 10**9  # a file that was changed a moment ago could change again without a new time


class FileDigests:
    """A table from files to their digests, kept in a JSON file that processes share.

    A file is known by path, size, time of change and inode. Where two processes write the table at once one of them
    forgets what the other has added, and the file is read once more.
    """

    def __init__(self, table: Path) -> None:
        self._table = table

    def of(self, file: Path) -> str:
        """The digest of a file's content; reads the file where it is not known.

        Raises:
            OSError: The file cannot be read.
        """
        path, stat = os.path.realpath(file), file.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._read().get(path)
        if isinstance(known, dict) and known.get("state") == state:
            return str(known["digest"])
        digest = digest_of(file)
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            with suppress(OSError):  # a table that cannot be written remembers nothing
                self._remember(path, {"state": state, "digest": digest})
        return digest

    def _remember(self, path: str, entry: dict[str, Any]) -> None:
        entries = self._read()
        entries.pop(path, None)
        entries[path] = entry
        _replace(self._table, json.dumps(dict(list(entries.items())[-_MOST:]), indent=1))

    def _read(self) -> dict[str, Any]:
        """The table; one that is missing, unreadable or damaged is empty."""
        try:
            entries = json.loads(self._table.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def digest_of(file: Path) -> str:
    """The digest of a file's content, read now."""
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _replace(file: Path, text: str) -> None:
    """Write a file so that whoever reads it finds the old text or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise

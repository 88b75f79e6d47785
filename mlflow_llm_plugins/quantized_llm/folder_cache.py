"""A bounded cache of folders that processes share: each is made once, by one process, and is whole or not there.

A folder stays while a process uses it; of the others those go first that were used longest ago. A process uses one by
a shared lock on a file in it, held as long as the process lives: it ends with the process however that ends, and
holds for containers that share the volume.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger(__name__)

_PATIENCE_S = 3600.0  # for another process that makes the same
_IN_USE = ".in-use"  # a file of an entry, locked by the processes that use it
_REMOVED = "-removed"  # ends the name of a folder on its way out; unfinished and removed ones begin with a dot

# Open files by entry: they belong to the process, which lets go of them when it ends. A child that is started anew
# does not inherit them.
_held: dict[Path, int] = {}


class FolderCache:
    """The entries in one folder; safe for threads and processes.

    Args:
        root: Where they are. Made here.
        most_bytes: What they may take together, with what is unfinished or not removed yet.

    Raises:
        OSError: `root` cannot be made.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._most = root, most_bytes

    def entry(self, key: str, what: str, make: Callable[[Path], None]) -> Path:
        """The folder of that key, which stays as long as this process lives.

        One that is there is also found where nothing can be written, as in the image of a container or by another
        user.

        Args:
            key: A name without dots, hyphens and separators.
            what: What it is, for who waits for it.
            make: Fills an empty folder where there is no entry yet; what it raises leaves nothing behind.

        Raises:
            Timeout: Another process has been making the same for an hour.
            OSError: There is no entry yet, and the cache cannot be written.
        """
        entry = self._root / key
        if not _use(entry):
            with self._locked(key, what):
                if not entry.is_dir():
                    self._clear(but=key)
                    with _appearing(entry) as folder:
                        make(folder)
                _use(entry)
        self._keep_under(but=entry)
        return entry

    def sizes(self) -> list[int]:
        """Bytes of each entry."""
        return [_bytes_of(entry) for entry in self._folders() if not entry.name.startswith(".")]

    @contextmanager
    def _locked(self, key: str, what: str) -> Iterator[None]:
        """Hold an entry against its making and removal elsewhere; tells where that takes a while."""
        lock = FileLock(self._lock_file(key))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _logger.warning("Waiting for another process, which makes %s (%s).", what, self._root / key)
            lock.acquire(timeout=_PATIENCE_S)
        try:
            yield
        finally:
            lock.release()

    def _keep_under(self, but: Path) -> None:
        """Clear what is half made or removed, then entries, until the rest is no larger than the bound."""
        self._clear()
        sizes = {folder: _bytes_of(folder) for folder in self._folders()}
        for entry in sorted(sizes, key=_last_use):
            if sum(sizes.values()) <= self._most:
                return
            if entry != but and not entry.name.startswith(".") and self._remove(entry):
                _logger.info("Removed %s (%.0f MB) to stay under %d bytes.", entry, sizes[entry] / 1e6, self._most)
                sizes[entry] = 0

    def _clear(self, but: str | None = None) -> None:
        """Remove what killed processes left: their locks are free."""
        for folder in self._folders():
            key = _key_of(folder)
            if folder.name.startswith(".") and key != but:
                with suppress(OSError), FileLock(self._lock_file(key), timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)

    def _remove(self, entry: Path) -> bool:
        """Remove an entry that nobody uses; whether it is gone."""
        removed = entry.with_name(f".{entry.name}{_REMOVED}")
        try:
            with FileLock(self._lock_file(entry.name), timeout=0):
                shutil.rmtree(removed, ignore_errors=True)
                with _unused(entry):
                    os.replace(entry, removed)  # at once: what is left of a killed process is no entry
                shutil.rmtree(removed, ignore_errors=True)
        except OSError:  # a Timeout too: it is being made, in use, or another user's
            return False
        return True

    def _folders(self) -> list[Path]:
        """Entries, and what is unfinished or removed; a folder that no lock belongs to is somebody else's."""
        return [path for path in self._root.iterdir() if path.is_dir() and self._lock_file(_key_of(path)).is_file()]

    def _lock_file(self, key: str) -> Path:
        return self._root / f"{key}.lock"


def _key_of(folder: Path) -> str:
    return folder.name.removeprefix(".").removesuffix(_REMOVED)


@contextmanager
def _appearing(entry: Path) -> Iterator[Path]:
    """A new folder that becomes the entry when the block is over; nothing is left where it fails."""
    unfinished = entry.with_name(f".{entry.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: the lock is ours
    unfinished.mkdir()
    try:
        yield unfinished
        (unfinished / _IN_USE).touch()
        os.replace(unfinished, entry)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _use(entry: Path) -> bool:
    """Hold the entry until this process ends, as far as that can be done; whether it is there."""
    if not entry.is_dir():
        return False
    try:
        file = _open_in_use(entry)
    except FileNotFoundError:  # removed meanwhile
        return False
    except OSError:  # without that file where none can be written, or on a file system without locks
        return entry.is_dir()
    before = _held.get(entry)
    _held[entry] = file
    if before is not None:  # of an entry that was there before this one
        os.close(before)
    with suppress(OSError):  # another user's, or read-only
        os.utime(entry)
    return True


def _open_in_use(entry: Path) -> int:
    """The entry's file, open and locked; read-only, for that is enough to share a lock."""
    file = os.open(entry / _IN_USE, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_SH)
        if not os.path.samestat(os.fstat(file), os.stat(entry / _IN_USE)):
            raise FileNotFoundError(f"{entry} was replaced while it was opened")
    except BaseException:
        os.close(file)
        raise
    return file


@contextmanager
def _unused(entry: Path) -> Iterator[None]:
    """Keep other processes from beginning to use it; BlockingIOError where one does already.

    On Windows a folder with an open file cannot be renamed, which comes to the same.
    """
    if sys.platform == "win32":
        yield
        return
    file = os.open(entry / _IN_USE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # removed by another process meanwhile
        return 0.0


def _bytes_of(folder: Path) -> int:
    """Of its files; one that another process removes meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.lstat().st_size
    return total

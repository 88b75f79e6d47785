"""Which process a pid meant when it was written down, so that a number that was given out again harms nobody."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict
from typing_extensions import Self

_ABOUT = "~"  # before a time in seconds since 1970, for want of the kernel's own marks
_STARTED_S, _BOOTED_S = 1.0, 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(BaseModel):
    """A process of this boot; written into records."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: str  # ticks after the boot where the system tells them, else seconds since 1970
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """Of a running process.

        Raises:
            psutil.NoSuchProcess: It is not running.
        """
        return cls(pid=pid, started=_started(pid), boot=boot_id())

    @classmethod
    def own(cls) -> Self:
        """Of this process."""
        return cls.of(os.getpid())

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the machine has not been started again since."""
        return _is_same(self.boot, boot_id(), _BOOTED_S)

    def process(self) -> psutil.Process | None:
        """The process, if it still runs; a zombie does not."""
        with suppress(psutil.Error, OSError):
            process = psutil.Process(self.pid)
            if self.is_of_this_boot and _is_same(_started(self.pid), self.started, _STARTED_S):
                return process if process.status() != psutil.STATUS_ZOMBIE else None
        return None

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process() is not None


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process and all that descend from it, parents first; empty when it is gone."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    except OSError:  # no free descriptor to look with
        return [root]


def identities(processes: Iterable[psutil.Process]) -> list[ProcessIdentity]:
    """Of those that still run."""
    found = []
    for process in processes:
        with suppress(psutil.Error, OSError):
            found.append(ProcessIdentity.of(process.pid))
    return found


@functools.cache
def boot_id() -> str:
    """Another one after each start of the machine."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return f"{_ABOUT}{psutil.boot_time():.0f}"


def _started(pid: int) -> str:
    """The kernel's own mark: seconds since 1970 move when somebody sets the clock."""
    with suppress(FileNotFoundError, ProcessLookupError):
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return content.rpartition(")")[2].split()[19]  # field 22; the name in parentheses may hold blanks
    return f"{_ABOUT}{psutil.Process(pid).create_time():.0f}"


def _is_same(one: str, other: str, tolerance_s: float) -> bool:
    """Of times that move when somebody sets the clock, about the same."""
    if one.startswith(_ABOUT) and other.startswith(_ABOUT):
        return abs(float(one.removeprefix(_ABOUT)) - float(other.removeprefix(_ABOUT))) <= tolerance_s
    return one == other

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
        return self.boot == boot_id()

    def process(self) -> psutil.Process | None:
        """The process, if it still runs; a zombie does not."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if self.is_of_this_boot and _started(self.pid) == self.started:
                return process if process.status() != psutil.STATUS_ZOMBIE else None
        return None

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process() is not None


def family(root: psutil.Process) -> list[psutil.Process]:
    """The process and all that descend from it, parents first; empty when it is gone."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def identities(processes: Iterable[psutil.Process]) -> list[ProcessIdentity]:
    """Of those that still run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(ProcessIdentity.of(process.pid))
    return found


@functools.cache
def boot_id() -> str:
    """Another one after each start of the machine."""
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return f"{psutil.boot_time():.0f}"


def _started(pid: int) -> str:
    """The kernel's own mark: seconds since 1970 move when somebody sets the clock."""
    with suppress(FileNotFoundError):
        content = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return content.rpartition(")")[2].split()[19]  # field 22; the name in parentheses may hold blanks
    return f"{psutil.Process(pid).create_time():.0f}"

"""Folders are made once, by one process, stay while they are used, and are whole or not there whatever is killed."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from mlflow_llm_plugins.quantized_llm.folder_cache import FolderCache

SIZE = 1000
ANOTHER_USER = 65534
USE_AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.folder_cache import FolderCache

def fail(folder):
    raise AssertionError("made once more")

os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(int(sys.argv[2]))
try:
    Path("of-this-user").touch()
except OSError:
    entry = FolderCache(Path("."), int(sys.argv[3])).entry("old", "an export", fail)
    print(entry, (entry / "weights").stat().st_size, flush=True)
    sys.stdin.read()
"""
USE = """
import sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.folder_cache import FolderCache

def make(folder):
    (folder / "weights").write_bytes(bytes(1000))
    if step == "making":
        print("ready", flush=True)
        sys.stdin.read()

root, key, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
FolderCache(root, 10**9).entry(key, "an export", make)
print("ready", flush=True)
sys.stdin.read()
"""
REMOVE = """
import os, shutil, signal, sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.folder_cache import FolderCache

def killed(path, **options):
    if Path(path).is_dir():
        (Path(path) / "weights").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

shutil.rmtree = killed
FolderCache(Path(sys.argv[1]), 1).entry("new", "an export", lambda folder: None)
"""


def make(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(SIZE))


def fail(folder: Path) -> None:
    raise AssertionError(f"{folder} is made once more")


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """(key, "making" or "using") -> another process that has come that far, and stays there until it ends."""
    processes = []

    def run(key: str, step: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", USE, str(tmp_path), key, step],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def end(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.wait(10)


def test_an_entry_of_another_process_stays_until_that_process_is_killed(tmp_path, start):
    process = start("used", "using")
    cache = FolderCache(tmp_path, SIZE + 500)
    cache.entry("second", "an export", make)
    assert names(tmp_path) == {"used", "second"}
    end(process)
    cache.entry("second", "an export", fail)
    assert names(tmp_path) == {"second"}


def test_an_entry_that_this_process_uses_stays(tmp_path):
    cache = FolderCache(tmp_path, 1)
    used = cache.entry("used", "an export", make)
    cache.entry("other", "an export", make)
    assert (used / "weights").is_file()


def test_an_entry_that_was_made_anew_is_held_as_the_first_one_was(tmp_path):
    cache = FolderCache(tmp_path, 1)
    shutil.rmtree(cache.entry("used", "an export", make))
    used = cache.entry("used", "an export", make)
    cache.entry("other", "an export", make)
    assert (used / "weights").is_file()


def test_what_was_used_longest_ago_goes_first(tmp_path, start):
    for age, key in enumerate(("young", "old")):
        end(start(key, "using"))
        os.utime(tmp_path / key, (1000 - age, 1000 - age))
    FolderCache(tmp_path, 2 * SIZE + 500).entry("new", "an export", make)
    assert names(tmp_path) == {"young", "new"}


def test_an_entry_whose_removal_was_killed_is_no_entry(tmp_path, start):
    end(start("half", "using"))
    done = subprocess.run([sys.executable, "-c", REMOVE, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "half" not in names(tmp_path)
    assert (FolderCache(tmp_path, 10**9).entry("half", "an export", make) / "weights").stat().st_size == SIZE
    assert names(tmp_path) == {"half", "new"}


def test_what_killed_processes_left_is_cleared_away_before_and_after(tmp_path, start):
    end(start("killed", "making"))
    assert names(tmp_path) == {".killed"}
    (tmp_path / ".other-removed").mkdir()
    (tmp_path / "other.lock").touch()
    found = []
    FolderCache(tmp_path, 10**9).entry("new", "an export", lambda _: found.append(names(tmp_path)))
    assert found == [{".new"}]
    assert names(tmp_path) == {"new"}


def test_what_is_being_made_elsewhere_stays_and_counts_for_the_bound(tmp_path, start):
    end(start("old", "using"))
    start("unfinished", "making")
    FolderCache(tmp_path, 2 * SIZE + 500).entry("new", "an export", make)
    assert names(tmp_path) == {".unfinished", "new"}


def test_waiting_for_another_process_is_told_once_with_what_it_makes(tmp_path, start, caplog):
    process = start("shared", "making")
    logger = logging.getLogger("mlflow_llm_plugins.quantized_llm.folder_cache")

    class Finish(logging.Handler):
        def emit(self, record):
            process.stdin.close()  # it goes on when somebody waits

    handler = Finish()
    logger.addHandler(handler)
    try:
        entry = FolderCache(tmp_path, 10**9).entry("shared", "the export of llama", fail)
    finally:
        logger.removeHandler(handler)
    waiting = f"Waiting for another process, which makes the export of llama ({entry})."
    assert caplog.messages == [waiting]


def test_nothing_is_left_where_making_fails(tmp_path):
    with pytest.raises(AssertionError):
        FolderCache(tmp_path, 10**9).entry("new", "an export", fail)
    assert names(tmp_path) == set()


def test_an_entry_that_is_locked_elsewhere_is_not_removed(tmp_path, start):
    end(start("old", "using"))
    with FileLock(tmp_path / "old.lock"):
        FolderCache(tmp_path, 1).entry("new", "an export", make)
        assert names(tmp_path) == {"old", "new"}


def test_folders_that_are_not_of_the_cache_stay_and_do_not_count(tmp_path):
    for name in (".git", "documents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(SIZE))
    cache = FolderCache(tmp_path, 1)
    cache.entry("new", "an export", make)
    assert names(tmp_path) == {".git", "documents", "new"}
    assert cache.sizes() == [SIZE]


@pytest.fixture
def read_only(tmp_path, start) -> Iterator[Path]:
    """A cache with two entries, "old" and "other", where this user can write nothing."""
    for key in ("old", "other"):
        end(start(key, "using"))
    paths = [tmp_path, *tmp_path.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path
    for path in paths:
        if path.exists():
            path.chmod(0o755)


@pytest.fixture
def another(read_only) -> Iterator[Callable[[int], subprocess.Popen]]:
    """(bound) -> a process of a user who cannot write there, and uses the entry "old" until it ends."""
    processes = []

    def run(most_bytes: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", USE_AS_ANOTHER_USER, str(read_only), str(ANOTHER_USER), str(most_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="users and their rights are those of POSIX")
@pytest.mark.parametrize("most_bytes", [10**9, 1])
def test_an_entry_that_is_there_is_used_where_nothing_can_be_written(read_only, another, most_bytes):
    assert another(most_bytes).stdout.readline() == f"old {SIZE}\n"
    assert names(read_only) == {"old", "other"}


@pytest.mark.skipif(sys.platform == "win32", reason="users and their rights are those of POSIX")
def test_an_entry_that_another_user_uses_stays(read_only, another):
    assert another(10**9).stdout.readline() == f"old {SIZE}\n"
    for path in (read_only, *read_only.rglob("*")):
        path.chmod(0o755)
    FolderCache(read_only, 1).entry("new", "an export", make)
    assert names(read_only) == {"old", "new"}


def test_an_entry_is_used_while_its_lock_is_held_elsewhere(tmp_path, start):
    end(start("old", "using"))
    cache = FolderCache(tmp_path, 10**9)
    with ThreadPoolExecutor(1) as thread, FileLock(tmp_path / "old.lock"):
        assert thread.submit(cache.entry, "old", "an export", fail).result(timeout=20) == tmp_path / "old"

"""A log keeps what a server says, never grows without end, and never stops the one who reads the server."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.deployments.local.server.log import ServerLog, cause


def files(path: Path) -> dict[str, bytes]:
    """The log's files, oldest first."""
    return {file.name: file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*"), reverse=True)}


def said(path: Path, *chunks: bytes, **options: Any) -> ServerLog:
    log = ServerLog(path, **options)
    for chunk in chunks:
        log.write(chunk)
    log.close()
    return log


def test_log_goes_on_where_the_last_one_ended_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "server.log"
    said(path, b"one\n", b"tw")
    said(path, b"o\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


LINES = st.lists(st.integers(0, 30).map(lambda length: b"x" * length + b"\n"), min_size=8, max_size=60)


@given(LINES, st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_rotated_files_hold_the_last_lines_whole_however_they_came(tmp_path_factory, lines, cuts):
    lines = [b"%d%s" % (number, line) for number, line in enumerate(lines)]
    path = tmp_path_factory.mktemp("log") / "server.log"
    output = b"".join(lines)
    log = ServerLog(path, max_bytes=100, files=3)
    rest, sizes = output, cycle(cuts)
    while rest:
        size = next(sizes)
        log.write(rest[:size])
        rest = rest[size:]
    log.close()
    found = files(path)
    assert set(found) <= {"server.log", "server.log.1", "server.log.2"}
    assert output.endswith(b"".join(found.values()))
    assert all(content.endswith(b"\n") for content in found.values() if content)
    assert "server.log.2" in found or b"".join(found.values()) == output
    assert all(stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600 for name in found)


def test_files_stay_small_when_a_server_says_much(tmp_path):
    path = tmp_path / "server.log"
    said(path, *(b"%d\n" % number for number in range(2000)), max_bytes=1000, files=3)
    assert list(files(path)) == ["server.log.2", "server.log.1", "server.log"]
    assert all(len(content) <= 1010 for content in files(path).values())
    assert files(path)["server.log"].endswith(b"1998\n1999\n")


def test_line_without_an_end_does_not_fill_the_disk(tmp_path):
    path = tmp_path / "server.log"
    said(path, *(b"\r%4d %%" % number for number in range(2000)), max_bytes=1000, files=3)
    assert sum(map(len, files(path).values())) <= 3 * 2000


def test_two_servers_share_a_log_without_losing_lines(tmp_path):
    path = tmp_path / "server.log"
    logs = [ServerLog(path, max_bytes=1000, files=3) for _ in range(2)]
    for number in range(60):
        for server, log in enumerate(logs):
            log.write(b"%d says %2d\n" % (server, number))
    for log in logs:
        log.close()
    assert list(files(path)) == ["server.log.1", "server.log"]  # one has made room for both
    lines = b"".join(files(path).values()).splitlines()
    assert sorted(lines) == sorted(b"%d says %2d" % (server, number) for server in range(2) for number in range(60))


def test_directory_that_is_not_there_costs_the_file_but_not_the_tail(tmp_path):
    log = said(tmp_path / "gone" / "server.log", b"still here\n")
    assert log.tail() == "still here"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_costs_the_file_but_not_the_tail():
    log = said(Path("/dev/full"), b"still ", b"here\n")
    assert log.tail() == "still here"


def test_log_is_written_again_when_the_disk_has_room_again(tmp_path):
    folder = tmp_path / "later"
    log = ServerLog(folder / "server.log")
    log.write(b"lost\n")
    folder.mkdir()
    log.write(b"kept\n")
    log.close()
    assert (folder / "server.log").read_bytes() == b"kept\n"


def test_echo_gets_every_byte_also_those_after_a_rotation(tmp_path):
    echo = io.BytesIO()
    said(tmp_path / "server.log", b"one\ntwo\n", b"three\n\xff", b"\x1b[31mfour\n", max_bytes=10, echo=echo)
    assert echo.getvalue() == b"one\ntwo\nthree\n\xff\x1b[31mfour\n"


def test_echo_that_nobody_reads_any_more_is_no_reason_to_stop(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb", buffering=0) as broken:
        log = ServerLog(tmp_path / "server.log", echo=broken)
        log.write(b"one\n")
    log.write(b"two\n")  # to a closed stream
    log.close()
    assert (tmp_path / "server.log").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"", ""),
        (b"a\nb\nc\nd", "c\nd"),
        (b"a\r\nb\r\n", "a\nb"),
        (b"x\n\x1b[32mINFO\x1b[0m: up\x1b[K\n", "x\nINFO: up"),
        (b"\x1b]8;;http://x\x07link\x1b]8;;\x07 \x1b[1A\x00\x08.\n", "link ."),
        (b"\rload:   0%\rload:  50%\rload: 100%\nup\n", "load: 100%\nup"),
        (b"\rload:   0%\rload:  50%", "load:  50%"),
        (b"up\n\rload: 100%\r          \r", "up\nload: 100%"),  # a bar that is cleared at its end
        ("größer\n".encode() + b"\xff\n", "größer\n\ufffd"),
    ],
)
def test_tail_is_what_a_terminal_would_show_last(tmp_path, output, lines):
    assert said(tmp_path / "server.log", output).tail(2) == lines


@given(st.lists(st.integers(1, 9)))
def test_tail_does_not_depend_on_how_the_bytes_came(tmp_path_factory, cuts):
    output = "\x1b[31mrot\x1b[0m\n\rladen:  0 %\rladen: größer\nfertig\n".encode()
    ends = [0, *(sum(cuts[: number + 1]) for number in range(len(cuts))), len(output)]
    chunks = [output[start:end] for start, end in zip(ends, [*ends[1:], len(output)], strict=True)]
    log = said(tmp_path_factory.mktemp("log") / "server.log", *chunks)
    assert log.tail() == "rot\nladen: größer\nfertig"


def test_tail_of_a_long_log_is_bounded_and_begins_with_a_whole_line(tmp_path):
    log = said(tmp_path / "server.log", *(b"line %06d\n" % number for number in range(100_000)))
    tail = log.tail(10**6).splitlines()
    assert 1000 < len(tail) < 10_000
    assert all(re.fullmatch(r"line \d{6}", line) for line in tail)
    assert log.tail(1) == "line 099999"


def test_last_line_is_there_before_it_is_complete(tmp_path):
    log = ServerLog(tmp_path / "server.log")
    assert log.last_line() == ""
    log.write(b"loading\n\n\r 10%|#")
    assert log.last_line() == " 10%|#"
    log.write(b"\r 20%|##\n   \n")
    assert log.last_line() == " 20%|##"
    log.close()


UVICORN = """INFO:     Waiting for application startup.
ERROR:    Traceback (most recent call last):
  File "starlette/routing.py", line 694, in lifespan
    async with self.lifespan_context(app):
  File "model.py", line 3, in load
    raise OSError("x") from error
    ^^^^^^^^^^^^^
ValueError: no model here: KeyError
INFO:     gone

ERROR:    Application startup failed. Exiting.
"""
COMMAND = """Traceback (most recent call last):
  File "mlflow/pyfunc/backend.py", line 326, in serve
    raise Exception(
Exception: Command '['bash', '-c', 'exec uvicorn']' returned non zero return code. Return code = 3
"""
CHAINED = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'first'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
mlflow.exceptions.MlflowException: No such artifact: 'second'
"""


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        (UVICORN, "ValueError: no model here: KeyError"),
        (UVICORN + COMMAND, "ValueError: no model here: KeyError"),
        (CHAINED, "mlflow.exceptions.MlflowException: No such artifact: 'second'"),
        (CHAINED + UVICORN, "ValueError: no model here: KeyError"),
        (
            CHAINED.rpartition("Traceback")[2] + COMMAND,
            "mlflow.exceptions.MlflowException: No such artifact: 'second'",
        ),
        (
            "INFO: a\nERROR:    [Errno 98] address already in use\nINFO: b\n",
            "ERROR:    [Errno 98] address already in use",
        ),
        ("Traceback (most recent call last):\n  File x\nAssertionError\n", "AssertionError"),
        ("Traceback (most recent call last):\n  File x\ntorch.cuda.OutOfMemoryError: 2 GiB\n", None),
        ("Traceback (most recent call last):\n  File x\nKeyboardInterrupt\n", None),
        (COMMAND, COMMAND.splitlines()[-1]),
    ],
)
def test_cause_is_the_line_that_explains_the_end(tail, line):
    assert cause(tail) == (tail.splitlines()[-1] if line is None else line)


def test_cause_of_what_python_really_prints(tmp_path):
    code = "try:\n    {}['a']\nexcept KeyError:\n    raise RuntimeError('of two lines\\nthe second')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert cause(done.stderr) == "RuntimeError: of two lines"

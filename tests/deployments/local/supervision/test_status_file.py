"""The file that tells what a deployment does, and others who write, delete or damage it."""

from __future__ import annotations

import asyncio
import os

import pytest

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.local.records import Status, read_record
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "status.json"


@pytest.fixture
def status(path):
    return StatusFile(path, Status(token="t", supervisor=ProcessIdentity.own()))


def test_nothing_is_written_before_the_first_change(path, status):
    assert not path.exists()
    status.change()
    assert read_record(Status, path) == status.status


def test_what_is_there_already_is_not_written_again(path, status):
    status.change(phase="a")
    before = os.stat(path)
    status.change(phase="a")
    status.save()
    assert os.path.samestat(os.stat(path), before)


def test_a_file_that_somebody_changed_is_written_again(path, status):
    status.change(phase="a")
    path.write_text(path.read_text().replace('"a"', '"b"'))
    os.utime(path, ns=(1, 1))  # as late as the clock of the file system tells it
    status.save()
    assert read_record(Status, path) == status.status


def test_what_could_not_be_written_is_written_later_and_told_once(path, status, caplog):
    path.mkdir()
    status.change(phase="a")
    status.save()
    assert caplog.text.count("cannot be written") == 1
    path.rmdir()
    status.save()
    assert read_record(Status, path) == status.status


def test_a_kept_file_comes_back_and_nobody_is_told_anything_new(path):
    told = []
    status = StatusFile(path, Status(token="t", supervisor=ProcessIdentity.own()), told.append)

    async def test() -> None:
        keeping = asyncio.create_task(status.keep(0.01))
        while not path.exists():
            await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(asyncio.wait_for(test(), 20))
    assert told == []

"""The lock that tells whether a supervisor lives, and who it is."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_llm_plugins.deployments.local import life_lock
from mlflow_llm_plugins.deployments.local.life_lock import acquire, is_held
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.errors import HardwareError

WAIT_S = 30


def test_nobody_holds_a_lock_that_is_not_there(tmp_path):
    assert not is_held(tmp_path / "lock")


def test_a_held_lock_is_seen_from_outside_and_by_many_at_once(tmp_path, holder):
    holder(tmp_path / "lock")
    assert [is_held(tmp_path / "lock") for _ in range(50)] == [True] * 50
    assert acquire(tmp_path / "lock", timeout_s=0.1) is None


def test_a_killed_holder_frees_it_at_once(tmp_path, holder):
    process = holder(tmp_path / "lock")
    process.kill()
    process.wait(WAIT_S)
    assert not is_held(tmp_path / "lock")


def test_looking_does_not_keep_the_next_holder_out(tmp_path):
    (tmp_path / "lock").touch()
    assert not is_held(tmp_path / "lock")
    lock = acquire(tmp_path / "lock", timeout_s=1)
    assert lock is not None
    lock.release()
    assert not is_held(tmp_path / "lock")


def test_a_lock_is_waited_for(tmp_path, holder):
    process = holder(tmp_path / "lock")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, tmp_path / "lock", WAIT_S)
        process.kill()
        lock = waiting.result(WAIT_S)
    assert lock is not None
    lock.release()


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    assert acquire(tmp_path / "gone" / "lock") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_its_lock_is_waited_for_is_not_made_again(tmp_path, holder):
    (tmp_path / "chat").mkdir()
    process = holder(tmp_path / "chat" / "lock")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(acquire, tmp_path / "chat" / "lock", WAIT_S)
        (tmp_path / "chat").rename(tmp_path / "gone")
        process.kill()
        assert waiting.result(WAIT_S) is None
    assert not (tmp_path / "chat").exists()


def test_a_lock_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(HardwareError, match=r"cannot be locked: .* Set MLFLOW_LLM_HOME to a directory"):
        acquire(tmp_path / "lock")


def test_the_holder_is_told_whatever_others_try(tmp_path, holder):
    process = holder(tmp_path / "lock")
    assert acquire(tmp_path / "lock", timeout_s=0.1) is None
    assert life_lock.holder(tmp_path / "lock") == ProcessIdentity.of(process.pid)


def test_the_next_holder_is_told_after_the_first(tmp_path, holder):
    (tmp_path / "lock").write_text("something much longer than what an identity is, from an earlier time\n" * 9)
    lock = acquire(tmp_path / "lock")
    assert lock is not None
    assert life_lock.holder(tmp_path / "lock") == ProcessIdentity.own()
    lock.release()
    process = holder(tmp_path / "lock")
    assert life_lock.holder(tmp_path / "lock") == ProcessIdentity.of(process.pid)


@pytest.mark.parametrize("content", [None, "", "{", '{"pid": 1}', "\0\xff"])
def test_an_unreadable_lock_tells_of_no_holder(tmp_path, content):
    if content is not None:
        (tmp_path / "lock").write_text(content)
    assert life_lock.holder(tmp_path / "lock") is None


def test_only_its_owner_can_read_it(tmp_path, holder):
    holder(tmp_path / "lock")
    assert os.stat(tmp_path / "lock").st_mode & 0o777 == 0o600

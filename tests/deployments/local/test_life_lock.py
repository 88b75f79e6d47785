"""The lock that tells whether a supervisor lives."""

from __future__ import annotations

from mlflow_llm_plugins.deployments.local.life_lock import acquire, is_held


def test_nobody_holds_a_lock_that_is_not_there(tmp_path):
    assert not is_held(tmp_path / "lock")


def test_a_held_lock_is_seen_from_outside_and_by_many_at_once(tmp_path, holder):
    holder(tmp_path / "lock")
    assert [is_held(tmp_path / "lock") for _ in range(50)] == [True] * 50
    assert acquire(tmp_path / "lock", timeout_s=0.1) is None


def test_a_killed_holder_frees_it_at_once(tmp_path, holder):
    process = holder(tmp_path / "lock")
    process.kill()
    process.wait(30)
    assert not is_held(tmp_path / "lock")


def test_looking_does_not_keep_the_next_holder_out(tmp_path):
    (tmp_path / "lock").touch()
    assert not is_held(tmp_path / "lock")
    lock = acquire(tmp_path / "lock", timeout_s=1)
    assert lock is not None
    lock.release()

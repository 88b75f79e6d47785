"""When a crashed server is started again, and when no more."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.deployments.local.supervision.crash_row import CrashRow
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.settings import DeploymentConfig


def backoffs(count: int, **settings: float) -> list[float]:
    row = CrashRow(DeploymentConfig.parse(settings, "config"), Patience())
    found = []
    for _ in range(count):
        row.add()
        found.append(row.backoff_s)
    return found


def test_each_crash_in_a_row_doubles_the_wait_up_to_the_longest():
    assert backoffs(8) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_first_wait_is_the_one_of_the_settings():
    assert backoffs(2, restart_backoff_s=0.25) == [0.25, 0.5]
    assert backoffs(1, restart_backoff_s=100) == [60]


def test_a_row_of_any_length_has_a_wait():
    assert backoffs(5000)[-1] == 60


@pytest.mark.parametrize(("allowed", "crashes"), [(0, 1), (2, 3)])
def test_one_crash_more_than_allowed_is_too_many(allowed, crashes):
    row = CrashRow(DeploymentConfig(max_restarts=allowed), Patience())
    for _ in range(crashes - 1):
        row.add()
    assert not row.is_too_long
    row.add()
    assert row.is_too_long


@pytest.mark.parametrize(("row_ends_after_s", "length"), [(0, 1), (60, 3)])
def test_only_a_server_that_ran_for_long_ends_the_row(row_ends_after_s, length):
    row = CrashRow(DeploymentConfig(), Patience(row_ends_after_s=row_ends_after_s))
    for _ in range(3):
        row.note_ready()
        row.add()
    assert row.length == length


def test_starts_that_fail_make_the_row_longer():
    row = CrashRow(DeploymentConfig(), Patience(row_ends_after_s=0))
    row.note_ready()
    row.add()
    row.add()
    assert row.length == 2

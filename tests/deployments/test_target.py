"""URIs of the target."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.local.home import HOME
from mlflow_llm_plugins.deployments.target import home_of
from mlflow_llm_plugins.errors import InvalidInputError


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("local", "/state"),
        ("local:/some/path", "/some/path"),
        ("local:///some/path", "/some/path"),
        ("local:/a%20b", "/a b"),
        ("local:/a/../b", "/b"),
        ("local://staging", "/state/targets/staging"),
        ("local://staging/", "/state/targets/staging"),
    ],
)
def test_each_form_names_a_state_directory(uri, expected):
    assert home_of(uri, {HOME: "/state"}).root == Path(expected)


@pytest.mark.parametrize("uri", ["local:", "local:/", "local:relative", "local://a/b", "local:/x?y=1", "other", ""])
def test_other_forms_are_refused_with_those_that_are_taken(uri):
    with pytest.raises(InvalidInputError, match="must be local, local:/path/of/the/state/directory, or local://name"):
        home_of(uri, {HOME: "/state"})


def test_a_relative_directory_is_seen_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert home_of("local", {HOME: "../state"}).root == tmp_path / "state"


def test_without_a_variable_the_state_is_the_users_own(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert home_of("local", {}).root == Path("/xdg/mlflow-llm-plugins")

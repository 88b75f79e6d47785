"""The state directory."""

from __future__ import annotations

import stat

import pytest

from mlflow_llm_plugins.deployments.local.home import Home
from mlflow_llm_plugins.errors import InvalidInputError


@pytest.mark.parametrize("name", ["chat", "a", "A.b-c_1", "0", "x" * 63])
def test_ordinary_names_are_taken(home, name):
    assert home.folder(name).name == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "-a", "x" * 64, "ä", None, 3])
def test_names_that_could_leave_the_directory_are_refused(home, name):
    with pytest.raises(InvalidInputError, match="must be 1 to 63 letters, digits, dots, dashes or underscores"):
        home.folder(name)


def test_only_the_owner_can_look_into_it(home):
    for path in (home.root, home.deployments, home.endpoints):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_directory_that_is_not_there_has_no_deployments(tmp_path):
    assert Home(tmp_path / "none").folders() == []


def test_a_place_that_cannot_be_written_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="Set MLFLOW_LLM_HOME to a directory that you can write"):
        Home(tmp_path / "file" / "state").make()

"""API keys: where they come from, and who is let in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.keys import KEY, KEY_FILE, ApiKeys


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text("first\n\n# a comment\n  second  \n", encoding="utf-8")
    return ApiKeys.from_environment({KEY_FILE: str(path), KEY: "third"})


@pytest.mark.parametrize("header", [b"Bearer first", b"bearer second", b"BEARER  third", b"Bearer third "])
def test_every_key_lets_in(keys, header):
    assert keys.admit(header)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"first",
        b"Basic first",
        b"Bearer",
        b"Bearer firs",
        b"Bearer firstt",
        b"Bearer # a comment",
        b"Bearer \xff",
    ],
)
def test_anything_else_does_not(keys, header):
    assert not keys.admit(header)


@given(st.binary(max_size=40))
def test_no_other_bytes_let_in(given_key):
    assert ApiKeys(["right"]).admit(b"Bearer " + given_key) == (given_key.strip() == b"right")


def test_without_variables_no_key_is_asked_for():
    assert not ApiKeys.from_environment({})


def test_a_variable_that_holds_no_key_is_an_error():
    with pytest.raises(InvalidInputError, match=f"{KEY_FILE} or {KEY} is set but holds no key"):
        ApiKeys.from_environment({KEY: "  "})


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InvalidInputError, match=r"none' cannot be read: No such file"):
        ApiKeys.from_environment({KEY_FILE: str(tmp_path / "none")})


def test_a_file_that_is_no_text_is_an_error_that_does_not_show_it(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(b"secret\xff")
    with pytest.raises(InvalidInputError, match="it is not UTF-8 text") as caught:
        ApiKeys.from_environment({KEY_FILE: str(path)})
    assert "secret" not in str(caught.value)


def test_a_mark_at_the_beginning_of_the_file_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "keys"
    path.write_text("first\n", encoding="utf-8-sig")
    assert ApiKeys.from_environment({KEY_FILE: str(path)}).admit(b"Bearer first")


def test_keys_show_nowhere():
    keys = ApiKeys(["secret"])
    assert "secret" not in repr(keys) + str(vars(keys))

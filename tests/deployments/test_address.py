"""An address gives the header that lets a request in, and never shows what it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.errors import InvalidInputError


def address_with(path: Path | None) -> Address:
    return Address("http://127.0.0.1:1", is_ours=True, api_key_file=path, timeout_s=1, name="chat")


def test_without_a_file_nothing_is_sent():
    assert address_with(None).authorization() == {}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("first\nsecond\n", "first"),
        ("\n  # a comment\n\n  first  \nsecond", "first"),
        ("\ufefffirst\r\nsecond", "first"),
    ],
)
def test_the_first_key_of_the_file_is_sent(tmp_path, content, key):
    path = tmp_path / "keys"
    path.write_text(content, encoding="utf-8")
    assert address_with(path).authorization() == {"Authorization": f"Bearer {key}"}


def test_a_key_of_other_letters_is_sent_as_the_bytes_of_utf_8(tmp_path):
    path = tmp_path / "keys"
    path.write_text("schlüssel", encoding="utf-8")
    assert address_with(path).authorization()["Authorization"].encode("latin-1") == b"Bearer " + "schlüssel".encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"keys' of deployment 'chat' cannot be read: No such file or directory\. Make it readable for you"),
        (b"secret\xff", "it is not UTF-8 text"),
        (b"# secret\n\n", r"keys' holds no key; write one into it\."),
    ],
)
def test_a_file_without_a_key_is_an_error_that_does_not_show_its_content(tmp_path, content, reason):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=reason) as caught:
        address_with(path).authorization()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("local", "mlflow deployments update -t local --name chat -C api_key_file=PATH."),
        ("local:/my state", "mlflow deployments update -t 'local:/my state' --name chat -C api_key_file=PATH."),
    ],
)
def test_another_file_is_named_by_a_command_for_the_same_target(tmp_path, target, command):
    address = dataclasses.replace(address_with(tmp_path / "none"), target=target)
    with pytest.raises(InvalidInputError) as caught:
        address.authorization()
    assert str(caught.value).endswith(command)


def test_an_address_is_of_the_target_local_by_default():
    assert address_with(None).target == "local"


def test_the_key_is_not_in_what_an_address_shows(tmp_path):
    path = tmp_path / "keys"
    path.write_text("secret", encoding="utf-8")
    address = address_with(path)
    address.authorization()
    assert "secret" not in repr(address)

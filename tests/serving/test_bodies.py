"""Bodies of requests."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.bodies import UnsupportedMediaTypeError, check_headers, read_json, unpack
from mlflow_llm_plugins.serving.failures import BodyTooLargeError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def depth_of(value):
    if isinstance(value, list | dict):
        children = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, children), default=0)
    return 0


@given(JSON, st.integers(1, 6))
def test_json_is_read_up_to_the_depth_that_is_allowed(value, limit):
    raw = json.dumps(value).encode()
    if depth_of(value) <= limit:
        assert read_json(raw, limit) == value
    else:
        with pytest.raises(InvalidInputError, match=f"nested more than {limit} deep"):
            read_json(raw, limit)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_our_error(raw):
    with suppress(InvalidInputError):
        json.dumps(read_json(raw, 8)).encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{SECRET", "not valid JSON: Expecting property name"),
        (b'{"SECRET": NaN}', "NaN is not a number of JSON"),
        (b'{"SECRET": -Infinity}', "-Infinity is not a number of JSON"),
        (b'{"SECRET": "\\ud800"}', "half of a surrogate pair"),
        (b'"SECRET\xff"', "not UTF-8"),
        (b'{"SECRET": ' + b"9" * 5000 + b"}", "a number is too long"),
        (b"[" * 200_000, "nested more than 8 deep"),
        (b"", "not valid JSON"),
        (b'{"SECRET": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"SECRET": 1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_the_message_says_what_is_wrong_and_never_shows_the_body(raw, message):
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_json(raw, 8)
    assert "SECRET" not in str(caught.value)


def test_a_body_of_more_values_than_allowed_is_refused_before_it_is_parsed():
    assert read_json(b"[" + b"1," * 1000 + b"1]", 8, max_values=100_000)
    with pytest.raises(InvalidInputError, match=r"more than 100 values \(MLFLOW_LLM_MAX_JSON_VALUES\)"):
        read_json(b"[" + b"{" * 200_000, 8, max_values=100)


def test_a_web_page_cannot_leave_the_content_type_out():
    check_headers({})
    with pytest.raises(UnsupportedMediaTypeError):
        check_headers({"origin": "http://elsewhere"})


def test_a_whole_surrogate_pair_is_text():
    assert read_json(b'"\\ud83d\\ude00"', 8) == "😀"


def test_a_packed_body_is_unpacked():
    assert unpack(gzip.compress(b"{}"), "gzip", 10) == b"{}"
    assert unpack(b"{}", "", 1) == unpack(b"{}", "Identity", 1) == b"{}"


def test_a_packed_body_without_its_end_is_refused():
    with pytest.raises(InvalidInputError, match="its end is missing"):
        unpack(gzip.compress(b"x" * 1000)[:-9], "gzip", 1000)


def test_a_packed_body_with_more_behind_its_end_is_refused():
    with pytest.raises(InvalidInputError, match="more follows behind its end"):
        unpack(gzip.compress(b"{}") + gzip.compress(b"{}"), "gzip", 1000)


def test_a_body_that_is_too_large_once_unpacked_is_refused_before_it_is():
    with pytest.raises(BodyTooLargeError):
        unpack(gzip.compress(b"x" * 10**7), "gzip", 1000)


@pytest.mark.parametrize(
    ("encoding", "error", "message"),
    [
        ("br", UnsupportedMediaTypeError, "content-encoding must be one of gzip.*, got 'br'"),
        ("gzip, gzip", UnsupportedMediaTypeError, "content-encoding must be one of gzip"),
        ("gzip", InvalidInputError, "The body is not packed as gzip"),
    ],
)
def test_other_packings_are_refused(encoding, error, message):
    with pytest.raises(error, match=message):
        unpack(b"SECRET", encoding, 1000)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_types_are_read(kind):
    check_headers({"content-type": kind})


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_web_page_may_post_unasked_is_refused(kind):
    with pytest.raises(UnsupportedMediaTypeError, match="content-type must be application/json, got"):
        check_headers({"content-type": kind})

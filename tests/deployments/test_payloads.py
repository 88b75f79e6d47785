"""Whatever a caller gives becomes the request that says the same; what cannot is refused in words that help."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlflow_llm_plugins.deployments.json_values import json_value
from mlflow_llm_plugins.deployments.payloads import Request, request_of, stream_request_of
from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError

SECRET = "the launch code is 4711"
CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
TOOL_CALL = {"role": "assistant", "tool_calls": [{"id": "1"}]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def without_nan(value):
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return list(map(without_nan, value))
    return None if isinstance(value, float) and math.isnan(value) else value


def sent(inputs, is_ours=False):
    """The body as a server reads it, from JSON without exceptions to the rules."""
    return json.loads(json.dumps(request_of(inputs, is_ours).body, allow_nan=False))


@pytest.mark.parametrize(
    ("inputs", "is_ours", "path"),
    [
        ({"messages": CHAT, "temperature": 0}, True, "/v1/chat/completions"),
        ({"messages": CHAT, "temperature": 0}, False, "/invocations"),
        ({"prompt": "hi", "max_tokens": 3}, True, "/v1/completions"),
        ({"prompt": ["hi", "you"]}, False, "/invocations"),
        ({"input": "agents take this"}, False, "/invocations"),
        ({"inputs": ["a", "b"], "params": {"temperature": 0}}, True, "/invocations"),
        ({"inputs": {"column": [1, 2]}}, False, "/invocations"),
        ({"instances": [1, 2]}, False, "/invocations"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, False, "/invocations"),
        ({"dataframe_records": [{"a": 1}], "params": {"k": 1}}, True, "/invocations"),
    ],
)
def test_a_dict_is_sent_as_it_is_where_it_is_understood(inputs, is_ours, path):
    assert request_of(inputs, is_ours) == Request(path, inputs)


def test_one_string_under_inputs_is_one_row():
    assert sent({"inputs": "Once upon a time", "params": {"top_k": 2}}) == {
        "inputs": ["Once upon a time"],
        "params": {"top_k": 2},
    }


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ([], []),
        (3, [3]),
        (2.5, [2.5]),
        (np.float32(2.5), [2.5]),
        (np.str_("a"), ["a"]),
        (np.array("a"), ["a"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (pd.Series(["a", "b"], index=[7, 7]), ["a", "b"]),
        (pd.Series([1.5, np.nan]), [1.5, None]),
        ([{"messages": CHAT}, {"messages": CHAT[1:]}], [{"messages": CHAT}, {"messages": CHAT[1:]}]),
        ([CHAT, CHAT[1:]], [CHAT, CHAT[1:]]),
        ([{"role": "cook", "age": 40}], [{"role": "cook", "age": 40}]),
    ],
)
def test_rows_in_any_container_are_inputs(inputs, rows):
    assert request_of(inputs, is_ours=True).path == "/invocations"
    assert sent(inputs) == {"inputs": rows}


@pytest.mark.parametrize("messages", [CHAT, tuple(CHAT), np.array(CHAT, dtype=object), [*CHAT, TOOL_CALL]])
def test_a_list_of_messages_is_one_chat(messages):
    request = request_of(messages, is_ours=True)
    assert request == Request("/v1/chat/completions", {"messages": list(messages)})
    assert request_of(messages, is_ours=False) == Request("/invocations", request.body)


def test_numbers_of_numpy_inside_a_dict_are_numbers():
    inputs = {
        "messages": CHAT,
        "max_tokens": np.int64(3),
        "temperature": np.float32(0.5),
        "logprobs": np.bool_(True),
        "stop": np.array(["a", "b"]),
        "top_p": float("nan"),
    }
    assert sent(inputs) == {
        "messages": CHAT,
        "max_tokens": 3,
        "temperature": 0.5,
        "logprobs": True,
        "stop": ["a", "b"],
        "top_p": None,
    }


def test_dates_are_iso_8601_in_every_container():
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 6000)
    text = "2026-01-02T03:04:05.006000"
    each = [moment, pd.Timestamp(moment), np.datetime64(moment, "ns"), pd.NaT, np.datetime64("NaT"), pd.NA]
    assert sent(each) == {"inputs": [text, text, text, None, None, None]}
    assert sent(np.array([moment], dtype="datetime64[ns]")) == {"inputs": [text]}
    assert sent(pd.Series([moment, None])) == {"inputs": [text, None]}
    assert sent(pd.Timestamp("2026-01-02 03:04:05.006000007")) == {"inputs": ["2026-01-02T03:04:05.006000007"]}
    assert sent([datetime.date(2026, 1, 2), datetime.time(3, 4)]) == {"inputs": ["2026-01-02", "03:04:00"]}


@pytest.mark.filterwarnings("ignore:Hint. Inferred schema contains integer column")
def test_dataframe_reaches_a_model_of_mlflow_as_it_was():
    from mlflow.models import infer_signature
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    frame = pd.DataFrame(
        {
            "text": ["a", "12"],
            "int": np.array([1, 2], dtype="int32"),
            "float": [0.5, np.nan],
            "bool": [True, False],
            "when": pd.to_datetime(["2026-01-02 03:04:05.006", "1999-12-31 00:00:00"], format="ISO8601"),
        },
        index=["x", "y"],
    )
    schema = infer_signature(frame).inputs
    read = infer_and_parse_data(sent(frame), schema)
    pd.testing.assert_frame_equal(read, frame.reset_index(drop=True), check_dtype=False)


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**53), 2**53),
            st.floats(allow_infinity=False),
            st.text(),
            st.booleans(),
            st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)) | st.none(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_cell_of_a_dataframe_survives(rows):
    columns = ["int", "float", "text", "bool", "when"]
    split = sent(pd.DataFrame(rows, columns=columns).astype({"when": "datetime64[us]"}))["dataframe_split"]
    wanted = [
        [without_nan(cell) for cell in row[:4]] + [row[4] and row[4].isoformat(timespec="microseconds")]
        for row in rows
    ]
    assert split == {"columns": columns, "data": wanted}


@given(JSON)
def test_what_is_json_already_stays_the_same(value):
    assert json_value(value) == without_nan(value)


@given(arrays.arrays(st.sampled_from(["int64", "uint8", "float64", "float32", "bool"]), arrays.array_shapes()))
def test_every_finite_array_comes_back(array):
    if not np.isinf(array).any():
        read = np.array(sent(array)["inputs"], dtype=array.dtype)
        np.testing.assert_array_equal(read, array)


def test_what_was_given_is_not_changed():
    inputs = {"inputs": "a", "params": {"x": np.int64(1)}}
    frame = pd.DataFrame({"a": [1.0, np.nan]})
    request_of(inputs, is_ours=True), request_of(frame, is_ours=True)
    assert inputs == {"inputs": "a", "params": {"x": np.int64(1)}}
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"a": [1.0, np.nan]}))


def holding_itself():
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (None, "inputs must be a string, a number, a list, .* got None"),
        (b"the launch code", r"a value of type bytes: decode text, and encode other data with base64\.b64encode"),
        ({"prompt": [b"the launch code"]}, "a value of type bytes: decode text"),
        ({SECRET}, "a value of type set: give a list, which has an order"),
        ([Decimal(1)], "a value of type Decimal: convert it before"),
        (np.array([1j]), "a value of type complex"),
        ([float("inf")], "an infinite number, which JSON cannot say"),
        (np.array([-np.inf]), "an infinite number"),
        ({"inputs": {(1, 2): SECRET}}, "keys of a dict must be strings, got one of type tuple"),
        (holding_itself(), "nested too deeply, or holds itself"),
        ({"messages": CHAT, "stream": True}, r"stream=True: predict gives whole answers\. .* call predict_stream"),
    ],
)
def test_what_cannot_be_sent_is_refused_without_its_content(inputs, reason):
    with pytest.raises(InvalidInputError, match=reason) as caught:
        request_of(inputs, is_ours=True)
    assert "launch code" not in str(caught.value)


@pytest.mark.parametrize(
    ("is_ours", "taken"),
    [
        (True, "inputs, instances, dataframe_split, dataframe_records, messages, prompt"),
        (False, "inputs, instances, dataframe_split, dataframe_records, messages, prompt, input"),
    ],
)
def test_a_dict_of_unknown_keys_is_refused_with_those_that_are_known(is_ours, taken):
    with pytest.raises(InvalidInputError, match=f"must have one of {taken}; its keys are: 'message', 'n'") as caught:
        request_of({"message": SECRET, "n": 1}, is_ours)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "request_"),
    [
        ({"messages": CHAT, "n": 2}, Request("/v1/chat/completions", {"messages": CHAT, "n": 2, "stream": True})),
        (CHAT, Request("/v1/chat/completions", {"messages": CHAT, "stream": True})),
        ({"prompt": "hi", "stream": False}, Request("/v1/completions", {"prompt": "hi", "stream": True})),
        ("hi", Request("/v1/completions", {"prompt": "hi", "stream": True})),
    ],
)
def test_one_request_can_be_streamed(inputs, request_):
    assert stream_request_of(inputs, is_ours=True) == request_


@pytest.mark.parametrize("inputs", [["a", "b"], {"inputs": ["a"]}, pd.DataFrame({"prompt": ["a"]})])
def test_rows_cannot_be_streamed(inputs):
    with pytest.raises(InvalidInputError, match="A stream answers one request: give a string"):
        stream_request_of(inputs, is_ours=True)


def test_other_flavors_cannot_stream():
    with pytest.raises(UnsupportedFeatureError, match="Streams need a quantized LLM"):
        stream_request_of({"messages": CHAT}, is_ours=False)


@pytest.mark.parametrize("columns", [["a", "a"], pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])])
def test_columns_that_json_cannot_tell_apart_are_refused(columns):
    with pytest.raises(InvalidInputError, match="no two the same"):
        request_of(pd.DataFrame([[1, 2]], columns=columns), is_ours=False)

"""Whatever stock paths send becomes rows or one request; what is neither is refused with the numbers of the rows."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.quantized_llm.inputs import Rows, Single, read_input

SECRET = "the launch code is 4711"
SYSTEM, USER = {"role": "system", "content": "s"}, {"role": "user", "content": "hi"}
CHAT, OTHER_CHAT = [SYSTEM, USER], [USER]


def objects(*items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@pytest.mark.parametrize(
    "data",
    [
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array([["a"], ["b"]]),
        objects("a", "b"),
        pd.Series(["a", "b"]),
        pd.Series(["a", "b"], index=[7, 7], dtype="string"),
        pd.DataFrame({"prompt": ["a", "b"]}),
        pd.DataFrame({"inputs": ["a", "b"]}),
        pd.DataFrame({"question": ["a", "b"]}),
        pd.DataFrame({"prompt": ["a", "b"], "label": [1, 2]}),
        pd.DataFrame([["a"], ["b"]]),
        pd.DataFrame({"0": ["a", "b"]}),
        [{"prompt": "a"}, {"prompt": "b"}],
        [{"prompt": np.array("a")}, {"prompt": np.array("b")}],
        {"prompt": np.array(["a", "b"])},
        {"question": np.array(["a", "b"])},
        {"inputs": ["a", "b"]},
    ],
)
def test_prompts_in_any_container_are_rows(data):
    assert read_input(data) == Rows(("a", "b"))


@pytest.mark.parametrize(
    "data", ["a", np.array("a"), np.str_("a"), ["a"], {"inputs": "a"}, pd.DataFrame({"x": ["a"]})]
)
def test_one_string_is_one_row(data):
    assert read_input(data) == Rows(("a",))


@pytest.mark.parametrize(
    "data",
    [
        CHAT,
        [CHAT],
        [{name: np.array(text) for name, text in message.items()} for message in CHAT],
        [{"messages": CHAT}],
        [{"messages": np.array(CHAT, dtype=object)}],
        np.array([CHAT], dtype=object),
        {"messages": np.array([CHAT], dtype=object)},
        {"inputs": CHAT},
        pd.DataFrame({"messages": [CHAT]}),
        pd.DataFrame({"messages": [np.array(CHAT, dtype=object)]}),
        pd.DataFrame({"messages": CHAT}),  # one message a row, as pd.read_json makes it of {"messages": [...]}
        pd.DataFrame(CHAT),
    ],
)
def test_messages_in_any_container_are_one_conversation(data):
    assert read_input(data) == Rows((CHAT,))


@pytest.mark.parametrize(
    "data",
    [
        [CHAT, OTHER_CHAT],
        [{"messages": CHAT}, {"messages": OTHER_CHAT}],
        pd.DataFrame({"messages": [CHAT, OTHER_CHAT], "id": [1, 2]}),
        pd.Series([CHAT, OTHER_CHAT]),
        {"messages": objects(CHAT, OTHER_CHAT)},
    ],
)
def test_lists_of_conversations_are_rows(data):
    assert read_input(data) == Rows((CHAT, OTHER_CHAT))


def test_prompts_and_conversations_may_stand_in_one_list():
    assert read_input(["a", CHAT]) == Rows(("a", CHAT))


def test_what_a_message_lacks_in_a_frame_is_left_out():
    frame = pd.DataFrame([{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}])
    assert read_input(frame).rows[0][1] == {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        ({"messages": CHAT, "temperature": 0.5}, {"messages": CHAT, "temperature": 0.5}),
        ({"messages": CHAT, "max_tokens": None}, {"messages": CHAT}),
        ({"messages": np.array(CHAT, dtype=object), "seed": np.array(3)}, {"messages": CHAT, "seed": 3}),
        ({"prompt": "a", "stop": ("x",)}, {"prompt": "a", "stop": ["x"]}),
        ({"prompt": ["a", "b"]}, {"prompt": ["a", "b"]}),
        ({"prompt": np.array("a"), "max_tokens": np.int64(3)}, {"prompt": "a", "max_tokens": 3}),
        ({"prompt": np.array(["a", "b"]), "n": np.array(1)}, {"prompt": ["a", "b"], "n": 1}),
        ({"inputs": {"prompt": "a"}}, {"prompt": "a"}),
    ],
)
def test_a_dict_with_messages_or_prompt_is_one_request_in_plain_values(data, request_):
    assert read_input(data) == Single(request_)


def test_a_frame_of_one_row_is_a_request_where_the_signature_makes_it_one():
    frame = pd.DataFrame({"messages": [CHAT], "temperature": [0.5], "max_tokens": [None], "stop": [np.array(["x"])]})
    assert read_input(frame, frame_is_request=True) == Single({"messages": CHAT, "temperature": 0.5, "stop": ["x"]})
    two = pd.DataFrame({"messages": [CHAT, OTHER_CHAT]})
    assert read_input(two, frame_is_request=True) == Rows((CHAT, OTHER_CHAT))


def test_the_input_is_not_changed():
    data = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "stop": None}
    before = repr(data)
    read_input(data)
    assert repr(data) == before


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            pd.DataFrame({"prompt": pd.Series(["a", np.nan], dtype=object)}),
            "Column 'prompt' must hold a string or a list of messages in each row",
        ),
        (pd.DataFrame({"prompt": pd.Series(["a", np.nan], dtype=object)}), "but row 1 is nan (rows count from 0)"),
        (pd.DataFrame({"prompt": ["a", 7, 1.5, "b"]}), "but row 1 is 7, row 2 is 1.5 (rows count from 0)"),
        (pd.DataFrame({"prompt": [1, 2, 3, 4, 5, 6, 7]}), "row 4 is 5 and 2 more (rows count from 0)"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1 is <NA>"),
        (pd.Series(["a", pd.NaT], dtype=object), "row 1 is NaT"),
        ([SECRET, None], "The input must hold a string or a list of messages in each row, but row 1 is None"),
        ([SECRET, True], "row 1 is True"),
        ([SECRET, b"x"], "row 1 is of type bytes"),
        ([SECRET, {"prompt": SECRET}], "row 1 is of type dict"),
        ([SECRET, [SECRET, SECRET]], "row 1 is of type list"),
        ([SECRET, []], "row 1 is of type list"),
        ([SECRET, datetime.date(2026, 1, 1)], "row 1 is of type date"),
        (pd.DataFrame({"messages": [CHAT, SECRET]}), "Column 'messages' must hold a list of messages in each row"),
        (pd.DataFrame({"messages": [CHAT, None]}), "row 1 is None"),
        ({"prompt": np.array([5, 6])}, "row 0 is 5, row 1 is 6"),
        ([{"prompt": SECRET}, {"label": 1}], "row 1 is None"),
    ],
)
def test_rows_that_are_no_text_are_named_before_anything_is_generated(data, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        read_input(data)
    assert complaint in str(refusal.value)
    assert "Correct or drop these rows; nothing was generated." in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "data", [[], (), np.array([]), pd.Series([], dtype=object), pd.DataFrame(), pd.DataFrame({"prompt": []})]
)
def test_no_rows_are_refused(data):
    with pytest.raises(InvalidInputError) as refusal:
        read_input(data)
    assert str(refusal.value) == "The input has no rows; give at least one prompt."


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (
            pd.DataFrame({"question": [SECRET], "context": [SECRET]}),
            "Which column holds the prompts? Call it messages, prompt or inputs; there are: 'question', 'context'.",
        ),
        (
            pd.DataFrame({"prompt": [SECRET], "messages": [CHAT]}),
            "Columns 'messages', 'prompt' could each hold the prompts; give only one of them.",
        ),
        (
            pd.DataFrame({"prompt": [SECRET], "temperature": [0.5]}),
            "there are columns for temperature. Give these in params, for all rows: params={'temperature': ...}.",
        ),
        ([{"prompt": SECRET, "max_tokens": 5}], "there are columns for max_tokens."),
        ({"prompt": SECRET, "messages": CHAT}, "The request has both messages and prompt; give one of them."),
        ({"prompt": SECRET, "params": {"n": 2}}, "`params` stands inside the data"),
        ({"inputs": [SECRET], "params": {"n": 2}}, "`params` stands inside the data"),
        ({"input": SECRET}, "`input` asks for embeddings"),
        ({"promt": SECRET}, "A dict needs messages or prompt; its keys are: 'promt'."),
        ({}, "A dict needs messages or prompt; its keys are: none."),
        (7, "The input must be a string, a list of strings, a list of messages, a DataFrame"),
        (None, "got NoneType."),
        (b"x", "got bytes."),
        (np.array(3.5), "got float."),
    ],
)
def test_input_of_no_known_form_is_refused_with_the_forms_and_without_its_words(data, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        read_input(data)
    assert complaint in str(refusal.value)
    assert SECRET not in str(refusal.value)


texts = st.lists(st.text(), min_size=1)
cells = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(texts)
def test_any_texts_come_out_of_every_container_in_order(prompts):
    rows = Rows(tuple(prompts))
    assert read_input(prompts) == rows
    assert read_input(objects(*prompts)) == rows
    assert read_input(pd.Series(prompts, dtype=object)) == rows
    assert read_input(pd.DataFrame({"prompt": prompts}, dtype=object)) == rows
    assert read_input([{"prompt": np.array(prompt, dtype=object)} for prompt in prompts]) == rows


@given(st.lists(cells, min_size=1))
def test_a_column_of_anything_gives_rows_or_names_the_first_bad_one(column):
    bad = [i for i, cell in enumerate(column) if not isinstance(cell, str) and not _wraps_text(cell)]
    try:
        found = len(read_input(pd.DataFrame({"prompt": pd.Series(column, dtype=object)})).rows)
    except InvalidInputError as refusal:
        found = str(refusal)
    assert found == len(column) if not bad else f"row {bad[0]} is " in found


def _wraps_text(cell):
    return isinstance(cell, list) and len(cell) == 1

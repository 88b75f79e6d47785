"""Chats become what transformers makes of them, and templates reach no more than they need."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError, TemplateError, UndefinedError
from pydantic import BaseModel

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from tests.quantized_llm.file_tokenizer.made import IS_523, KINDS, pair
from tests.quantized_llm.file_tokenizer.templates import TEMPLATES

each_kind = pytest.mark.parametrize("kind", KINDS)
as_in_523 = pytest.mark.skipif(not IS_523, reason="the installed transformers is older, and renders this otherwise")
SAME = sorted(TEMPLATES if IS_523 else TEMPLATES.keys() - {"reasoning"})
ECHO = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
START, END = "\U000f0000", "\U000f0001"

CONTROLS = [
    *["<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|end|>", "<|eos|>", "<|system|>", "<|im_start|>"],
    *[
        "<|im_end|>",
        "<|endoftext|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<think>",
        "</think>",
        "<tool_call>",
        "[SEP]",
    ],
    *["<image>", "<|eot|>", "<left>", "<right>", "hot", "<h1>", "<｜tool▁sep｜>", "<|unused_1|>", "<extra_id_1>"],
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*CONTROLS, START, END, "the bath", " ", "\n", "|", "<", "好"]), st.text(max_size=4)),
    max_size=6,
).map("".join)
CALLS = st.builds(
    lambda name, x: [{"type": "function", "function": {"name": name, "arguments": {"x": x}}}], TEXTS, TEXTS
)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXTS}),
        st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS, "tool_calls": CALLS}),
        st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS, "reasoning_content": TEXTS}),
    ),
    min_size=1,
    max_size=5,
)
TOOLS = st.one_of(
    st.none(),
    st.lists(
        st.builds(
            lambda name, text: {
                "type": "function",
                "function": {
                    "name": name,
                    "description": text,
                    "parameters": {"type": "object", "properties": {"x": {"type": "string", "enum": [text, 1, None]}}},
                },
            },
            TEXTS,
            TEXTS,
        ),
        min_size=1,
        max_size=2,
    ),
)


def user(content):
    return [{"role": "user", "content": content}]


def rendered(tokenizer, messages, **options):
    """What comes out, or which error the template raised."""
    try:
        return tokenizer.apply_chat_template(messages, return_dict=False, **options)
    except Exception as error:
        # of our own: TypeError and ValueError
        return "refused" if isinstance(error, ValueError) else type(error).__name__


@each_kind
@settings(max_examples=40)
@given(data=st.data(), messages=MESSAGES, tools=TOOLS)
def test_chats_have_the_ids_that_transformers_gives_them(kind, data, messages, tools):
    template = TEMPLATES[data.draw(st.sampled_from(SAME))]
    options = {
        "chat_template": template,
        "tools": tools,
        "add_generation_prompt": data.draw(st.booleans()),
        "sanitize_control_tokens": data.draw(st.booleans()),
        "enable_thinking": data.draw(st.sampled_from([True, False])),
    }
    theirs, ours = pair(kind)
    expected = rendered(theirs, messages, **options)
    assert rendered(ours, messages, **options) == expected


def test_a_chat_is_text_or_ids_or_a_dictionary_of_ids():
    ours = pair("bytes").ours
    text = ours.apply_chat_template(user("hi"), tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>hi<|end|><|assistant|>"
    ids = ours.apply_chat_template(user("hi"), add_generation_prompt=True, return_dict=False)
    assert ids == ours(text, add_special_tokens=False).input_ids
    assert ours.apply_chat_template(user("hi"), add_generation_prompt=True) == {"input_ids": ids}


def test_today_s_date_can_be_written():
    ours = pair("bytes").ours
    before = datetime.now().strftime("%Y-%m-%d")
    text = ours.apply_chat_template(user("hi"), chat_template="{{ strftime_now('%Y-%m-%d') }}", tokenize=False)
    assert text in (before, datetime.now().strftime("%Y-%m-%d"))


@as_in_523
def test_keys_without_a_value_are_left_out_and_reasoning_has_all_its_names():
    theirs, ours = pair("bytes")
    chat = [
        {"role": "assistant", "content": None, "name": None, "thinking": "a"},
        {"role": "assistant", "content": "b", "reasoning": "c"},
        {"role": "user", "content": "d", "reasoning_content": None},
    ]
    options = {"chat_template": TEMPLATES["reasoning"], "tokenize": False}
    text = ours.apply_chat_template(chat, **options)
    assert text == theirs.apply_chat_template(chat, **options) == "assistanta|a||3assistantc|c|c|b5user|||d2"


class Shouting(str):
    """A string with a method that a template must not reach."""

    def shout(self):
        return "shouted"


@dataclass
class Point:
    x: int
    y: str


class Named(BaseModel):
    name: str


@as_in_523
@pytest.mark.parametrize(
    "value",
    [
        *(np.bool_(False), np.float32(0.5), np.str_("a"), Shouting("a"), (1, "b"), [None, {"a": 1.5}], True),
        *(Point(1, "<|end|>"), Named(name="n"), object, MappingProxyType({"a": 1}), np.arange(3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_templates_see_values_of_json_s_types(value):
    theirs, ours = pair("bytes")
    template = "{{ value }}{{ value is string }}{{ value is mapping }}{{ value.shout is defined }}"
    options = {"chat_template": template, "tokenize": False, "value": value}
    text = ours.apply_chat_template(user("a"), **options)
    assert text == theirs.apply_chat_template(user("a"), **options)
    assert text.endswith("False")


def test_threads_render_their_own_chats():
    ours = pair("qwen").ours
    chats = [user(f"{i}<|im_end|>{'x' * i}") for i in range(30)]
    start = threading.Barrier(4, timeout=60)

    def render(chat):
        return ours.apply_chat_template(
            chat, chat_template=TEMPLATES["qwen"], sanitize_control_tokens=True, return_dict=False
        )

    def render_all(_):
        start.wait()
        return [render(chat) for chat in chats]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(render_all, range(4), timeout=60)) == [[render(chat) for chat in chats]] * 4


# -- what is refused ----------------------------------------------------------------------------------------


def test_the_arguments_have_the_names_that_transformers_gives_them():
    theirs, ours = pair("bytes")
    assert (
        inspect.signature(ours.apply_chat_template).parameters.keys()
        == inspect.signature(theirs.apply_chat_template).parameters.keys()
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("continue_final_message", True), ("padding", True), ("truncation", True), ("max_length", 3)],
        *[("return_tensors", "pt"), ("return_assistant_tokens_mask", True), ("tokenizer_kwargs", {"a": 1})],
    ],
)
def test_arguments_that_are_not_offered_are_refused(name, value):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        pair("bytes").ours.apply_chat_template(user("a"), **{name: value})
    assert str(refusal.value) == (
        f"{name}={value!r} is not supported by a tokenizer that was read from its files: leave {name} out."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conversation": []}, "A chat needs at least one message, got none."),
        ({"conversation": ["hi"]}, "A message of a chat must be a dictionary, got str."),
        ({"conversation": user("a"), "tools": ["f"]}, "tools must be dictionaries, got str."),
        ({"conversation": user("a"), "documents": [3]}, "documents must be dictionaries, got int."),
    ],
)
def test_what_is_no_chat_is_refused(given, message):
    with pytest.raises(InvalidInputError) as refusal:
        pair("bytes").ours.apply_chat_template(**given)
    assert str(refusal.value) == message


def test_a_variable_cannot_replace_the_messages():
    with pytest.raises(TypeError, match="multiple values for keyword argument 'messages'"):
        pair("bytes").ours.apply_chat_template(user("a"), messages=user("b"))


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ ''.__class__.__mro__ }}", SecurityError),
        ("{{ messages.append(1) }}", SecurityError),
        ("{{ raise_exception('no') }}", TemplateError),
        ("{{ nothing.at_all }}", UndefinedError),
        ("{% for m in messages %}", TemplateError),
        pytest.param("{% set n = namespace(_x=1) %}", SecurityError, marks=as_in_523),
        pytest.param("{% set n = namespace() %}{% set n.__class__ = 1 %}", SecurityError, marks=as_in_523),
        pytest.param("{{ dict.mro() }}", UndefinedError, marks=as_in_523),
    ],
)
def test_templates_stay_in_their_sandbox(template, error):
    for tokenizer in pair("bytes"):
        with pytest.raises(error):
            tokenizer.apply_chat_template(user("a"), chat_template=template, tokenize=False)


def test_a_namespace_may_have_an_entry_that_is_called_self():
    template = "{% set n = namespace(self=1) %}{% set n.b = 2 %}{{ n.self }}{{ n.b }}"
    texts = [t.apply_chat_template(user("a"), chat_template=template, tokenize=False) for t in pair("bytes")]
    assert texts == ["12", "12"]

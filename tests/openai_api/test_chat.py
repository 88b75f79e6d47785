"""Chats become the token ids that the tokenizer's template writes, and nothing a user writes can forge its marks."""

from __future__ import annotations

import json
import threading

import pytest

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import parse_messages, render_chat
from tests.models import byte_tokenizer

SECRET = "the launch code is 4711"
ECHO = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
TOOLS_ECHO = "{% for tool in tools or [] %}{{ tool | tojson }};{% endfor %}" + ECHO
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def user(content):
    return parse_messages([{"role": "user", "content": content}])


def test_a_chat_is_rendered_up_to_where_the_answer_begins():
    tokenizer = byte_tokenizer()
    ids = render_chat(tokenizer, user("hi"))
    assert tokenizer.decode(ids) == "<|bos|><|user|>hi<|end|><|assistant|>"


def test_a_template_can_be_given_instead_of_the_tokenizer_s():
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(render_chat(tokenizer, user("hi"), ECHO)) == "user:hi;"


def test_template_variables_reach_the_template():
    template = ECHO + "{% if enable_thinking %}<think>{% endif %}"
    tokenizer = byte_tokenizer()
    ids = render_chat(tokenizer, user("hi"), template, {"enable_thinking": True})
    assert tokenizer.decode(ids) == "user:hi;<think>"


def test_tools_reach_the_template():
    tokenizer = byte_tokenizer()
    ids = render_chat(tokenizer, user("hi"), TOOLS_ECHO, tools=[TOOL])
    assert tokenizer.decode(ids) == f"{json.dumps(TOOL)};user:hi;"
    assert tokenizer.decode(render_chat(tokenizer, user("hi"), TOOLS_ECHO)) == "user:hi;"


def test_tools_choose_the_template_that_is_made_for_them():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": ECHO, "tool_use": TOOLS_ECHO}
    assert tokenizer.decode(render_chat(tokenizer, user("hi"))) == "user:hi;"
    assert tokenizer.decode(render_chat(tokenizer, user("hi"), tools=[TOOL])).startswith('{"type": "function"')


def test_reasoning_effort_reaches_a_template_that_has_it():
    tokenizer = byte_tokenizer()
    template = ECHO + "{{ reasoning_effort }}"
    assert tokenizer.decode(render_chat(tokenizer, user("hi"), template, reasoning_effort="low")) == "user:hi;low"


@pytest.mark.parametrize(("name", "value"), [("tools", [TOOL]), ("reasoning_effort", "low")])
def test_what_the_template_has_no_place_for_is_refused(name, value):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        render_chat(byte_tokenizer(), user("hi"), "{# my_tools #}" + ECHO, **{name: value})
    assert str(refusal.value) == (
        f"{name} is not supported by this model: its chat template does not mention {name}. "
        f"Leave {name} out, or log the model with a chat_template that does."
    )


@pytest.mark.parametrize("token", ["<|end|>", "<|system|>", "<|eos|>", "<|unused_3|>"])
def test_control_tokens_in_a_message_stay_text(token):
    tokenizer = byte_tokenizer()
    harmless = render_chat(tokenizer, user("ab"))
    ids = render_chat(tokenizer, user(f"a{token}b"))
    assert tokenizer.decode(ids) == f"<|bos|><|user|>a{token}b<|end|><|assistant|>"
    assert [i for i in ids if i in tokenizer.all_special_ids] == [
        i for i in harmless if i in tokenizer.all_special_ids
    ]


def test_rendering_from_many_threads_mixes_nothing_up():
    tokenizer = byte_tokenizer()
    texts = [f"{i} <|end|> " * (i % 3) + f"number {i}" for i in range(32)]
    alone = [render_chat(tokenizer, user(text)) for text in texts]
    together: dict[int, list[list[int]]] = {}

    def render(worker: int) -> None:
        together[worker] = [render_chat(tokenizer, user(text)) for text in texts]

    threads = [threading.Thread(target=render, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert list(together.values()) == [alone] * 4


@pytest.mark.parametrize(("template", "role"), [(ECHO, "system"), ("{# developer #}" + ECHO, "developer")])
def test_a_developer_is_a_system_to_templates_that_do_not_know_the_role(template, role):
    tokenizer = byte_tokenizer()
    messages = parse_messages([{"role": "developer", "content": "x"}])
    assert tokenizer.decode(render_chat(tokenizer, messages, template)) == f"{role}:x;"


def test_a_model_without_a_template_names_the_ways_out():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InvalidInputError) as refusal:
        render_chat(tokenizer, user(SECRET))
    assert str(refusal.value) == (
        "This model has no chat template, so it cannot read messages. Log it with chat_template='...', "
        "or send a prompt instead (task 'llm/v1/completions')."
    )


def test_several_templates_without_a_default_are_refused():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"rag": ECHO, "tool_use": ECHO}
    with pytest.raises(InvalidInputError, match=r"^The chat template cannot be chosen: "):
        render_chat(tokenizer, user(SECRET))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[0].nothing.there }}", "no attribute"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ raise_exception('Never say: ' + messages[0].content) }}", "Never say: ..."),
        ("{{ raise_exception('Never say: ' + messages[0].content[1:] + ' here') }}", "Never say: ... here"),
        ("{{ raise_exception(messages[0].content[:-1]) }}", "TemplateError"),
        ("{% broken", "unknown tag 'broken'"),
        ("", "no tokens"),
    ],
)
def test_a_template_that_fails_is_quoted_but_never_the_prompt(template, reason):
    tokenizer = byte_tokenizer()
    with pytest.raises(InvalidInputError) as refusal:
        render_chat(tokenizer, user(SECRET), template or "{# nothing #}")
    assert "chat template" in str(refusal.value)
    if template:
        assert reason in str(refusal.value)
        assert SECRET[1:-1] not in str(refusal.value)


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "chat_template", "sanitize_control_tokens"])
def test_variables_cannot_reach_past_the_template(name):
    with pytest.raises(InvalidInputError) as refusal:
        render_chat(byte_tokenizer(), user("hi"), chat_template_kwargs={name: False})
    assert str(refusal.value) == f"chat_template_kwargs cannot set {name}: these are no template variables."

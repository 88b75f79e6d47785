"""Task, prompt template and request defaults are checked when the model is logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.template import (
    check_prompt_template,
    choose_task,
    request_defaults,
    write_request_defaults,
)
from mlflow_llm_plugins.quantized_llm.tokenizer import check_chat_template


@pytest.mark.parametrize(
    ("task", "chat_template", "chosen"),
    [
        (None, "{{ messages }}", "llm/v1/chat"),
        (None, None, "llm/v1/completions"),
        ("llm/v1/completions", "{{ messages }}", "llm/v1/completions"),
        ("llm/v1/chat", "{{ messages }}", "llm/v1/chat"),
    ],
)
def test_task_follows_the_chat_template_unless_given(task: str | None, chat_template: str | None, chosen: str) -> None:
    assert choose_task(task, chat_template) == chosen


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose_task("llm/v1/chat", None)

    assert str(caught.value) == (
        "task='llm/v1/chat' needs a chat template, and the tokenizer has none. Give one with chat_template=, or use "
        "task='llm/v1/completions'."
    )


def test_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose_task("llm/v1/chats", None)

    assert str(caught.value) == (
        "Unknown task 'llm/v1/chats'. Did you mean 'llm/v1/chat'? Allowed: llm/v1/chat, llm/v1/completions."
    )


@pytest.mark.parametrize("template", ["no place", "{prompt} and {prompt}"])
def test_prompt_template_needs_one_place_for_the_prompt(template: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_prompt_template(template)

    assert str(caught.value) == f"prompt_template must contain '{{prompt}}' exactly once, got {template!r}."


def test_chat_template_with_wrong_jinja_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        InvalidInputError, match="chat_template cannot render a chat of one user message: TemplateSyntax"
    ):
        check_chat_template(tokenizer, "{% for message in messages %}")


def test_unknown_request_default_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInputError) as caught:
        request_defaults({"temprature": 0.5})

    assert str(caught.value) == (
        "generation_config: unknown key 'temprature'. Did you mean 'temperature'? Allowed are the keys of "
        "transformers' GenerationConfig."
    )


def test_request_defaults_of_another_kind_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="generation_config must be a GenerationConfig or a dictionary, got 3"):
        request_defaults(3)


def test_request_default_that_no_engine_honours_is_refused() -> None:
    with pytest.raises(UnsupportedFeatureError, match="num_beams"):
        request_defaults({"num_beams": 4})


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"max_new_tokens": 9}, {"max_new_tokens": 9}),
        (GenerationConfig(do_sample=True, top_k=7), {"do_sample": True, "top_k": 7}),
    ],
)
def test_request_defaults_are_written_as_transformers_reads_them(
    tmp_path: Path, given: Any, written: dict[str, Any]
) -> None:
    write_request_defaults(tmp_path, request_defaults(given))

    found = GenerationConfig.from_pretrained(tmp_path).to_diff_dict()
    found.pop("transformers_version", None)
    assert found == written


def test_greedy_default_replaces_sampling_of_the_checkpoint(tmp_path: Path) -> None:
    GenerationConfig(do_sample=True, temperature=0.6, eos_token_id=3).save_pretrained(tmp_path)

    write_request_defaults(tmp_path, request_defaults({"temperature": 0}))

    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert not found.get("do_sample")
    assert "temperature" not in found
    assert found["eos_token_id"] == 3


def test_contradictions_of_the_checkpoint_itself_do_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')  # as Llama 2 has it, without do_sample

    write_request_defaults(tmp_path, request_defaults({"max_new_tokens": 9}))

    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"temperature": 0.6, "max_new_tokens": 9}


def test_request_default_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="temperature must be from 0"):
        request_defaults({"temperature": -1})


def test_request_defaults_that_contradict_one_another_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"generation_config=.*temperature"):
        request_defaults({"do_sample": False, "temperature": 0.5})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"temperature": 0, "do_sample": True},
            "generation_config: temperature=0 is greedy and do_sample=True draws. Give only one of them.",
        ),
        (
            {"max_length": 12},
            "generation_config: max_length=12 counts the prompt as well and is not supported by this engine; "
            "use max_new_tokens.",
        ),
    ],
)
def test_defaults_that_would_not_do_what_they_say_are_refused(given, message):
    with pytest.raises(InvalidInputError) as error:
        request_defaults(given)
    assert str(error.value) == message

"""The prompt of a completion in all forms of OpenAI's API, and its token ids."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api import encode_prompt, parse_prompts
from tests.models import BOS, BOS_ID, byte_tokenizer

SECRET = "the launch code is 4711"


@pytest.mark.parametrize(
    ("raw", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [1]], ("a", (1,))),
    ],
)
def test_each_form_of_a_prompt_is_read(raw, prompts):
    assert parse_prompts(raw) == prompts


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (None, "token ids, or a list of such lists, got NoneType."),
        (7, "got int."),
        ({"text": SECRET}, "got dict."),
        ([], "prompt must have at least one prompt, got an empty list."),
        ([SECRET, None], "prompt[1] is NoneType."),
        ([SECRET, 7], "prompt[1] is int."),
        ([[SECRET]], "prompt[0] is list."),
        ([True, False], "prompt[0] is bool."),
        ([[1.0]], "prompt[0] is list."),
    ],
)
def test_what_is_no_prompt_is_refused_without_its_words(raw, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        parse_prompts(raw)
    assert complaint in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_text_is_encoded_as_the_tokenizer_does_by_default():
    tokenizer = byte_tokenizer()
    assert encode_prompt(tokenizer, "abc") == tokenizer("abc").input_ids


def test_control_tokens_written_in_a_raw_prompt_count():
    assert encode_prompt(byte_tokenizer(), f"{BOS}a")[0] == BOS_ID


def test_token_ids_stay_as_they_are():
    assert encode_prompt(byte_tokenizer(), (5, 6)) == [5, 6]


@pytest.mark.parametrize("prompt", ["", ()])
def test_a_prompt_without_tokens_is_refused(prompt):
    with pytest.raises(InvalidInputError, match=r"^The prompt is empty: it has no tokens\. Give at least one\.$"):
        encode_prompt(byte_tokenizer(), prompt)

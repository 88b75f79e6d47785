"""Answers are what OpenAI's and MLflow's own types read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from mlflow.types.llm import ChatCompletionResponse

from mlflow_llm_plugins.openai_api import ResponseParsing, TokenTexts, chat_completion, text_completion
from tests.openai_api.made_answers import made_answer
from tests.openai_api.response_templates import PLAIN_MARKS, ids_of, tokenizer_with

CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.fixture
def openai_types():
    return pytest.importorskip("openai.types")


@dataclass
class Output:
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str = "stop"
    cached_tokens: int = 0


def test_a_chat_completion_is_openai_s_and_mlflow_s(openai_types):
    answer = chat_completion("m", [Output("yes", 5, 2), Output("no", 5, 3, "length")])
    read = openai_types.chat.ChatCompletion.model_validate(answer)
    assert read.model_dump(exclude_unset=True) == answer
    assert [choice.message.content for choice in read.choices] == ["yes", "no"]
    assert [choice.index for choice in read.choices] == [0, 1]
    assert [choice.finish_reason for choice in read.choices] == ["stop", "length"]
    assert ChatCompletionResponse.from_dict(answer).choices[1].message.content == "no"


def test_a_text_completion_is_openai_s_with_choices_numbered_through_the_prompts(openai_types):
    answer = text_completion("m", [[Output("a", 3, 1), Output("b", 3, 1)], [Output("c", 4, 2), Output("d", 4, 2)]])
    read = openai_types.Completion.model_validate(answer)
    assert read.model_dump(exclude_unset=True) == answer
    assert [(choice.index, choice.text) for choice in read.choices] == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]


def counts(prompt, completion, cached=0):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def test_a_prompt_counts_once_however_many_answers_it_got():
    one = chat_completion("m", [Output("a", 5, 2), Output("b", 5, 3)])
    assert one["usage"] == counts(5, 5)
    two = text_completion("m", [[Output("a", 3, 1), Output("b", 3, 1)], [Output("c", 4, 2), Output("d", 4, 2)]])
    assert two["usage"] == counts(7, 6)


def test_tokens_of_a_prompt_that_were_cached_count_as_its_first_answer_found_them():
    one = chat_completion("m", [Output("a", 5, 2), Output("b", 5, 3, cached_tokens=5)])
    assert one["usage"] == counts(5, 5)
    two = text_completion("m", [[Output("a", 3, 1, cached_tokens=2)], [Output("c", 4, 2, cached_tokens=3)]])
    assert two["usage"] == counts(7, 3, cached=5)


def chat_of(text, openai_types, tools=TOOLS, top_logprobs=None):
    tokenizer = tokenizer_with(PLAIN_MARKS)
    texts = TokenTexts(tokenizer)
    output, _ = made_answer(tokenizer, ids_of(tokenizer, text), top_logprobs=top_logprobs)
    answer = chat_completion(
        "m",
        [output],
        token_texts=None if top_logprobs is None else texts,
        parsing=ResponseParsing.of(tokenizer, texts, ids_of(tokenizer, "<|assistant|>"), tools),
    )
    read = openai_types.chat.ChatCompletion.model_validate(answer)
    assert read.model_dump(exclude_unset=True) == answer
    ChatCompletionResponse.from_dict(answer)
    return answer["choices"][0]


def test_calls_are_in_the_message_and_the_answer_ends_for_them(openai_types):
    choice = chat_of(f"{CALL}{CALL}<|end|><|eos|>", openai_types)
    calls = choice["message"].pop("tool_calls")
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    assert [call["function"] for call in calls] == [{"name": "f", "arguments": '{"x": 1}'}] * 2
    assert choice["finish_reason"] == "tool_calls"


def test_an_answer_that_was_cut_after_a_call_has_its_own_reason(openai_types):
    choice = chat_of(CALL, openai_types)
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "length"


def test_reasoning_and_content_stand_beside_calls(openai_types):
    choice = chat_of(f"<think>hm</think>Let me see. {CALL}<|eos|>", openai_types)
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("hm", "Let me see.")
    assert choice["finish_reason"] == "tool_calls"


def test_an_answer_without_calls_is_a_text_also_where_it_is_empty(openai_types):
    choice = chat_of("<think>hm</think><|eos|>", openai_types)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
    assert "tool_calls" not in choice["message"]


def test_log_probabilities_of_a_chat_are_openai_s_one_for_each_token_of_all_parts(openai_types):
    text = "<think>hé</think>yes"
    choice = chat_of(f"{text}<|eos|>", openai_types, top_logprobs=2)
    written = [byte for row in choice["logprobs"]["content"] for byte in row["bytes"] or []]
    assert bytes(written).decode() == text
    assert choice["logprobs"]["refusal"] is None


def test_log_probabilities_of_a_completion_are_openai_s(openai_types):
    tokenizer = tokenizer_with(None)
    output, _ = made_answer(tokenizer, ids_of(tokenizer, "hé"), top_logprobs=2)
    answer = text_completion("m", [[output]], token_texts=TokenTexts(tokenizer))
    assert openai_types.Completion.model_validate(answer).model_dump(exclude_unset=True) == answer


def test_every_answer_has_an_id_of_its_own():
    ids = {chat_completion("m", [Output("a", 1, 1)])["id"] for _ in range(100)}
    assert len(ids) == 100
    assert all(answer_id.startswith("chatcmpl-") for answer_id in ids)

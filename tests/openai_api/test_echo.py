"""An echoed prompt is the beginning of its answers, with the numbers that evaluation harnesses read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.openai_api import Echo, NothingGenerated, TokenTexts, text_completion
from tests.generation.conftest import SMALL, plain_logprobs, random_prompts
from tests.models import BOS_ID, byte_tokenizer, random_model
from tests.openai_api.made_answers import made_answer
from tests.openai_api.tokenizers import byte_level, sentencepiece

KINDS = {"byte_level": byte_level(), "sentencepiece": sentencepiece()}
TOKENIZER = byte_tokenizer()


class Scores(list):
    """As an engine gives them."""

    top_logprobs = ()


def scored_echo(tokenizer, ids):
    return Echo.of(tokenizer, ids, Scores(-0.5 for _ in ids[1:]))


@pytest.fixture(scope="module")
def engine():
    opened = open_engine(random_model("llama"), byte_tokenizer(), SMALL)
    yield opened
    opened.close()


def harness_logprobs(choice, context_length):
    """How lm-evaluation-harness reads a prompt's numbers: sum, and whether each token was the best one."""
    logprobs = choice["logprobs"]["token_logprobs"][context_length:-1]
    best = [max(place.values()) for place in choice["logprobs"]["top_logprobs"][context_length:-1]]
    return sum(logprobs), logprobs == best


@torch.no_grad()
def greedy_ids(model, ids, count):
    for _ in range(count):
        ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


@pytest.mark.parametrize("best", [1, 5])
def test_an_evaluation_harness_reads_the_numbers_of_a_plain_forward_pass(engine, best):
    model = random_model("llama")
    contexts = random_prompts(20, 30)
    prompts = [greedy_ids(model, contexts[0], 6), [*contexts[1], *random_prompts(6, seed=9)[0]]]
    echoes = [Echo.of(TOKENIZER, *pair) for pair in zip(prompts, engine.score(prompts, best), strict=True)]
    requests = [GenerationRequest(ids, max_new_tokens=1, top_logprobs=best) for ids in prompts]
    outputs = [[engine.submit(request).result()] for request in requests]
    answer = text_completion("m", outputs, token_texts=TokenTexts(TOKENIZER), echoes=echoes)
    for choice, prompt, context, greedy in zip(answer["choices"], prompts, contexts, [True, False], strict=True):
        total, is_greedy = harness_logprobs(choice, len(context))
        assert total == pytest.approx(sum(plain_logprobs(model, prompt)[-6:]), abs=1e-4)
        assert is_greedy is greedy
        assert len(choice["logprobs"]["tokens"]) == len(prompt) + 1


def test_the_first_token_has_no_number_and_all_others_have():
    choice = text_completion(
        "m",
        [[made_answer(TOKENIZER, TOKENIZER("!").input_ids, top_logprobs=0)[0]]],
        token_texts=TokenTexts(TOKENIZER),
        echoes=[scored_echo(TOKENIZER, [BOS_ID, *TOKENIZER("hi").input_ids])],
    )["choices"][0]
    assert choice["text"] == "hi!"
    assert choice["logprobs"] == {
        "tokens": ["<|bos|>", "h", "i", "!"],
        "token_logprobs": [None, -0.5, -0.5, -1.0],
        "top_logprobs": [None, {"h": -0.5}, {"i": -0.5}, {"!": -1.0}],
        "text_offset": [0, 0, 1, 2],
    }


@pytest.mark.parametrize("kind", KINDS)
@given(prompt=st.text("abehlotxé —好", min_size=1), answer=st.text("abehlotxé —好", min_size=1))
def test_tokens_of_prompt_and_answer_stand_in_the_text_where_they_say(kind, prompt, answer):
    tokenizer = KINDS[kind]
    prompt_ids, answer_ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer))
    output, _ = made_answer(tokenizer, answer_ids, prompt_ids=prompt_ids, top_logprobs=0)
    echo = scored_echo(tokenizer, prompt_ids)
    assert echo.text == prompt
    choice = text_completion("m", [[output]], token_texts=TokenTexts(tokenizer), echoes=[echo])["choices"][0]
    assert choice["text"] == prompt + output.text
    columns = choice["logprobs"]
    assert columns["text_offset"][len(prompt_ids)] == len(prompt)
    for token, place in zip(columns["tokens"][1:], columns["text_offset"][1:], strict=True):
        assert token.startswith("bytes:") or choice["text"].startswith(token, place)


def test_an_answer_of_no_tokens_is_the_prompt_alone():
    ids = TOKENIZER("hi").input_ids
    answer = text_completion(
        "m",
        [[NothingGenerated(len(ids))] * 2],
        token_texts=TokenTexts(TOKENIZER),
        echoes=[scored_echo(TOKENIZER, ids)],
    )
    assert [choice["text"] for choice in answer["choices"]] == ["hi", "hi"]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert answer["choices"][1]["logprobs"]["token_logprobs"] == [None, -0.5]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (2, 0)


def test_without_numbers_an_echo_is_text_only():
    output, _ = made_answer(TOKENIZER, TOKENIZER("!").input_ids)
    echoes = [Echo.of(TOKENIZER, TOKENIZER(text).input_ids) for text in ("one", "two")]
    answer = text_completion("m", [[output, output], [output, output]], echoes=echoes)
    assert [choice["text"] for choice in answer["choices"]] == ["one!", "one!", "two!", "two!"]
    assert {choice["logprobs"] for choice in answer["choices"]} == {None}


def test_answers_and_echoes_that_do_not_fit_are_no_answer():
    with pytest.raises(ValueError, match="zip"):
        text_completion("m", [[NothingGenerated(1)]] * 2, echoes=[Echo("a")])

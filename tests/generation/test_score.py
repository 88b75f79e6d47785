"""Scores come with the best tokens of each place: those of a plain forward pass, whatever is computed at once."""

from __future__ import annotations

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import open_engine
from tests.generation.conftest import SMALL, plain_logprobs, random_prompts
from tests.models import BOS, EOS, byte_tokenizer, random_model

MODELS = [("llama", "transformers"), ("gemma2", "transformers"), ("llama", "openvino")]  # gemma2 caps its logits
ENGINES = ["transformers", "openvino"]


@torch.no_grad()
def plain_best(model, ids, count):
    """[places, count] token ids and log-probabilities of the best tokens under one plain forward pass."""
    best = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1).topk(count, -1)
    return best.indices.tolist(), best.values.tolist()


@pytest.mark.parametrize(("kind", "engine"), MODELS)
@pytest.mark.parametrize("count", [1, 5])
def test_the_alternatives_are_those_of_a_plain_forward_pass(open_model, kind, engine, count):
    model, engine = open_model(kind, engine)
    prompts = random_prompts(2, 200, 190, 17, 200, seed=3)
    for scores, prompt in zip(engine.score(prompts, top_logprobs=count), prompts, strict=True):
        assert scores == pytest.approx(plain_logprobs(model, prompt), abs=1e-4)
        ids, logprobs = plain_best(model, prompt, count)
        assert [[token_id for token_id, _ in place] for place in scores.top_logprobs] == ids
        for place, expected in zip(scores.top_logprobs, logprobs, strict=True):
            assert [logprob for _, logprob in place] == pytest.approx(expected, abs=1e-4)


def test_a_wide_vocabulary_gives_the_same_alternatives():
    model = random_model("llama", vocab_size=20_000)
    (prompt,) = random_prompts(40)
    ids, logprobs = plain_best(model, prompt, 20)
    engine = open_engine(model, byte_tokenizer(20_000), SMALL)
    try:
        (scores,) = engine.score([prompt], top_logprobs=20)
    finally:
        engine.close()
    assert [[token_id for token_id, _ in place] for place in scores.top_logprobs] == ids
    for place, expected in zip(scores.top_logprobs, logprobs, strict=True):
        assert [logprob for _, logprob in place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_a_token_has_exactly_the_same_number_as_itself_among_the_alternatives(open_model, kind, engine):
    _, engine = open_model(kind, engine)
    (prompt,) = random_prompts(60)
    (scores,) = engine.score([prompt], top_logprobs=128)
    seen = 0
    for token_id, score, place in zip(prompt[1:], scores, scores.top_logprobs, strict=True):
        if (own := dict(place).get(token_id)) is not None:
            seen += 1
            assert own == score
        assert score <= place[0][1]
    assert seen


@pytest.mark.parametrize("engine", ENGINES)
def test_none_are_there_where_none_were_asked_for(open_model, engine):
    _, engine = open_model("llama", engine)
    (scores,) = engine.score(random_prompts(9))
    assert scores.top_logprobs == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_text_of_one_token_has_no_places(open_model, engine):
    _, engine = open_model("llama", engine)
    scores = engine.score([[9], [9, 10]], top_logprobs=2)
    assert (scores[0], scores[0].top_logprobs) == ([], ())
    assert len(scores[1].top_logprobs) == 1
    assert engine.score([[9]], top_logprobs=2)[0].top_logprobs == ()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("count", [-1, 129])
def test_a_count_that_no_request_may_have_is_refused(open_model, engine, count):
    _, engine = open_model("llama", engine)
    with pytest.raises(InvalidInputError, match=rf"^top_logprobs must be from 0 to 128, got {count}\.$"):
        engine.score([[9, 10]], top_logprobs=count)


def starting_tokenizer(*tokens):
    """The byte tokenizer, with special tokens before every text."""
    tokenizer = byte_tokenizer()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    template = TemplateProcessing(single=f"{' '.join(tokens)} $A", special_tokens=ids)
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


@pytest.mark.parametrize("start", [(BOS,), (EOS,), ("<|system|>", BOS)], ids=["its own", "another one", "two"])
def test_a_string_begins_as_its_tokenizer_begins_texts(start):
    tokenizer = starting_tokenizer(*start)
    engine = open_engine(random_model("llama"), tokenizer, SMALL, "generate")
    whole = tokenizer("ab").input_ids
    try:
        assert len(whole) == len(start) + 2
        for text in ("ab", "".join(start) + "ab"):  # once, also where it was written out
            assert engine.score([text]) == engine.score([whole])
        assert engine.choose(["a"], ["b"]) == engine.choose([whole[:-1]], [whole[-1:]])
    finally:
        engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_string_has_no_start_token_where_its_tokenizer_adds_none(open_model, engine):
    _, engine = open_model("llama", engine)
    assert engine.score(["ab"]) == engine.score([byte_tokenizer()("ab").input_ids])

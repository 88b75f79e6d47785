"""Answers of the engine `openvino` are those of transformers, for every parameter that it does not refuse."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from mlflow_llm_plugins.generation import EngineSettings, GenerationRequest, open_engine
from tests.generation.conftest import EXACT, plain_greedy, plain_logprobs, random_prompts
from tests.models import FIRST_BYTE_ID, byte_tokenizer, random_model

LONG = {"max_position_embeddings": 1024}
SETTINGS = EngineSettings(max_requests_per_batch=16, num_blocks=200, **EXACT)
PROMPT = random_prompts(20, seed=4)[0]


@pytest.fixture(scope="module")
def model():
    return random_model("llama", **LONG)


@pytest.fixture(scope="module")
def engine(ir_folder):
    opened = open_engine(ir_folder("llama", **LONG), byte_tokenizer(), SETTINGS, "openvino")
    yield opened
    opened.close()


def start(engine, prompt=PROMPT, **options):
    return engine.submit(GenerationRequest(prompt, **{"eos_token_ids": (), "max_new_tokens": 24, **options}))


def test_greedy_answers_equal_generate_for_prompts_of_all_lengths_alone_and_together(engine, model):
    prompts = random_prompts(1, 2, 5, 31, 32, 33, 64, 100, 127, 128, 129, 200, 257, 300, 400, 500, seed=1)
    expected = [plain_greedy(model, prompt, 24) for prompt in prompts]
    assert [list(start(engine, prompt).result().token_ids) for prompt in prompts[::5]] == expected[::5]
    together = [start(engine, prompt) for prompt in prompts]
    assert [list(stream.result().token_ids) for stream in together] == expected


@pytest.fixture(scope="module")
def first(model):
    opened = open_engine(random_model("llama", **LONG), byte_tokenizer(), SETTINGS, "transformers")
    yield opened
    opened.close()


@pytest.mark.parametrize("penalty", [0.6, 1.0, 1.4, 3.0, 100.0])
def test_the_repetition_penalty_and_the_least_length_are_those_of_the_first_engine(engine, first, penalty):
    options = {"repetition_penalty": penalty, "max_new_tokens": 40, "top_logprobs": 0}
    free = start(first, **options).result()
    assert start(engine, **options).result().token_ids == free.token_ids
    ends = tuple(set(free.token_ids[2:30:7]))
    for least in (0, 5, 40):
        ours, expected = (
            start(each, **options, eos_token_ids=ends, min_new_tokens=least).result() for each in (engine, first)
        )
        assert (ours.token_ids, ours.finish_reason) == (expected.token_ids, expected.finish_reason)
        assert list(ours.logprobs) == pytest.approx(list(expected.logprobs), abs=1e-4)


@torch.no_grad()
def penalised_greedy(model, frequency, presence, repetition, tokens):
    """With the sign that the library gives both penalties where a logit is below 0; see the engine's limits."""
    answer = []
    for _ in range(tokens):
        logits = model(torch.tensor([[*PROMPT, *answer]])).logits[0, -1].double()
        seen = torch.tensor(sorted({*PROMPT, *answer}))
        logits[seen] = torch.where(logits[seen] < 0, logits[seen] * repetition, logits[seen] / repetition)
        for token, count in Counter(answer).items():
            for penalty in (frequency * count, presence):
                logits[token] -= penalty if logits[token] >= 0 else -penalty
        answer.append(int(logits.argmax()))
    return answer


@pytest.mark.parametrize(
    ("frequency", "presence", "repetition"),
    [(1.5, 0.0, 1.0), (0.0, 1.7, 1.0), (-1.5, 0.0, 1.0), (0.0, -2.0, 1.0), (1.0, 0.7, 1.5), (-1.5, -2.0, 0.6)],
)
def test_penalties_are_over_the_answer_and_come_after_the_repetition_penalty(
    engine, model, frequency, presence, repetition
):
    options = {
        "frequency_penalty": frequency,
        "presence_penalty": presence,
        "repetition_penalty": repetition,
        "max_new_tokens": 40,
    }
    expected = penalised_greedy(model, frequency, presence, repetition, 40)
    assert list(start(engine, **options).result().token_ids) == expected


def kept_by(model, temperature, top_k=None, top_p=None, min_p=None):
    """What transformers draws from after PROMPT."""
    with torch.no_grad():
        probabilities = (model(torch.tensor([PROMPT])).logits[0, -1].double() / temperature).softmax(-1)
    values, ids = probabilities.sort(descending=True)
    values = torch.where(torch.arange(len(values)) < (top_k or len(values)), values, 0)
    values = values / values.sum()
    values = torch.where(values.cumsum(-1) - values < (top_p or 1), values, 0)
    return {int(token) for token, value in zip(ids, values, strict=True) if value > values[0] * (min_p or 0)}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 2.0, "top_k": 6},
        {"temperature": 2.0, "top_p": 0.5},
        {"temperature": 1.5, "top_p": 0.6, "top_k": 12},
        {"temperature": 2.0, "min_p": 0.2},
        {"temperature": 2.5, "min_p": 0.1, "top_k": 20, "top_p": 0.8},
        {"temperature": 100.0, "top_k": 3},
    ],
    ids=lambda options: ",".join(options),
)
def test_only_tokens_that_the_truncation_keeps_are_drawn_and_all_of_them(engine, model, options):
    streams = [start(engine, max_new_tokens=1, seed=seed, **options) for seed in range(240)]
    drawn = {stream.result().token_ids[0] for stream in streams}
    kept = kept_by(model, **options)
    assert drawn <= kept
    assert len(drawn) >= 0.7 * len(kept)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-6},
        {"temperature": 0.01},
        {"temperature": 5.0, "top_k": 1},
        {"temperature": 5.0, "min_p": 1.0},
        {"temperature": 5.0, "top_p": 1e-9},
        {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    ],
    ids=str,
)
def test_extreme_values_are_taken_and_leave_the_most_probable_token(engine, model, options):
    assert list(start(engine, seed=3, **options).result().token_ids) == plain_greedy(model, PROMPT, 24)


@pytest.mark.parametrize("seed", [0, -5, 2**31, 2**63, 10**30])
def test_any_whole_number_is_a_seed_and_draws_the_same_alone_and_in_company(engine, seed):
    options = {"temperature": 1.5, "seed": seed, "max_new_tokens": 30}
    alone = start(engine, **options).result().token_ids
    company = [start(engine, prompt, temperature=1.0) for prompt in random_prompts(3, 150, 260, seed=seed & 255)]
    assert start(engine, **options).result().token_ids == alone
    assert start(engine, **{**options, "seed": seed + 1}).result().token_ids != alone
    for stream in company:
        stream.result()


def test_answers_without_a_seed_differ(engine):
    streams = [start(engine, temperature=1.5) for _ in range(8)]
    assert len({stream.result().token_ids for stream in streams}) == 8


def test_logprobs_are_those_of_the_raw_logits_whatever_is_done_to_them(engine, model):
    options = {"temperature": 1.7, "top_k": 20, "repetition_penalty": 1.3, "presence_penalty": 1.0, "seed": 2}
    output = start(engine, top_logprobs=0, **options).result()
    expected = plain_logprobs(model, [*PROMPT, *output.token_ids])[len(PROMPT) - 1 :]
    assert list(output.logprobs) == pytest.approx(expected, abs=1e-4)


def test_the_ends_of_the_request_count_and_those_of_the_files_do_not(engine):
    free = start(engine).result().token_ids
    ends = (free[3], free[9])
    cut = start(engine, eos_token_ids=(ends[1],), stop_token_ids=(ends[0],)).result()
    assert cut.token_ids == free[: min(free.index(end) for end in ends) + 1]
    assert cut.finish_reason == "stop"


def test_requests_from_many_threads_get_their_own_answers(engine, model):
    prompts = random_prompts(*range(10, 70, 5), seed=8)
    answers: dict[int, list[int]] = {}
    jobs: list[Callable[[], None]] = [
        lambda i=i, p=p: answers.__setitem__(i, list(start(engine, p).result().token_ids))
        for i, p in enumerate(prompts)
    ]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answers[i] for i in range(len(prompts))] == [plain_greedy(model, prompt, 24) for prompt in prompts]


def test_the_longest_request_that_the_cache_holds_is_answered(ir_folder, model):
    settings = SETTINGS.model_copy(update={"num_blocks": 5})  # 160 tokens
    engine = open_engine(ir_folder("llama", **LONG), byte_tokenizer(), settings, "openvino")
    try:
        for length in (1, 100, 159):
            prompt = random_prompts(length, seed=length)[0]
            expected = plain_greedy(model, prompt, 160 - length)
            assert list(start(engine, prompt, max_new_tokens=160 - length).result().token_ids) == expected
    finally:
        engine.close()


def test_an_id_that_only_the_vocabulary_of_the_model_has_is_taken(engine, model):
    assert len(start(engine, [FIRST_BYTE_ID, 319]).result().token_ids) == 24

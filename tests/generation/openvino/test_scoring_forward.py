"""Readings share one compiled model and nothing else: what one does or breaks, no other one sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation.openvino.scoring.forward import ForwardModel, KeysAndValues, Question
from tests.generation.conftest import random_prompts
from tests.models import random_model

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}
KINDS = ["llama", "mistral_sliding", "gpt2"]


@pytest.fixture(scope="module")
def forward_of(ir_folder):
    """A function: kind of model -> (the model, the compiled one), cached."""
    opened = {}

    def open_kind(kind):
        if kind not in opened:
            opened[kind] = random_model(kind), ForwardModel(ir_folder(kind), EXACT, before_pass=lambda: None)
        return opened[kind]

    return open_kind


@torch.no_grad()
def plain_logits(model, ids):
    return model(torch.tensor([ids])).logits[0].numpy()


def last_logits(reading, rows, parents=None):
    """[rows, vocabulary] after the last token of each row."""
    width = len(rows[0])
    places = [row * width + width - 1 for row in range(len(rows))]
    return reading.read(rows, Question(places, vocabulary="logits"), parents).vocabulary


def assert_last(model, texts, logits):
    for text, got in zip(texts, logits, strict=True):
        np.testing.assert_allclose(got, plain_logits(model, text)[-1], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_branch_change_places_and_end_in_any_order(forward_of, kind):
    model, forward = forward_of(kind)
    reading, texts = forward.begin(), random_prompts(30, seed=1)
    reading.read(texts)
    changes = [[0] * 5, [4, 4, 0, 2, 2], None, [3, 1], [1, 0, 0], [2, 0, 1], [0]]
    for turn, parents in enumerate(changes):
        rows = len(texts) if parents is None else len(parents)
        own = random_prompts(*[1 + turn % 3 * 4] * rows, seed=turn)
        texts = [texts[parent] + new for parent, new in zip(parents or range(rows), own, strict=True)]
        assert_last(model, texts, last_logits(reading, own, parents))


@pytest.mark.parametrize("kind", KINDS)
def test_another_reading_goes_on_from_a_part_of_what_was_kept(forward_of, kind):
    model, forward = forward_of(kind)
    (text, *own) = random_prompts(60, 7, 7, 7, seed=2)
    first = forward.begin()
    first.read([text])
    kept = first.keys_and_values()
    first.read([own[0]])
    second = forward.begin(kept.first(40))
    assert second.depth == 40
    assert_last(model, [text[:40] + row for row in own], last_logits(second, own, [0, 0, 0]))
    assert_last(model, [text + own[0] + own[1]], last_logits(first, [own[1]]))
    assert kept.tokens == 60


def test_a_pass_that_fails_tells_why_and_leaves_others_alone(forward_of):
    model, forward = forward_of("llama")
    (text,) = random_prompts(9)
    beside = forward.begin()
    beside.read([text[:5]])
    narrow = KeysAndValues(tuple(np.zeros((1, 2, 4, 3), np.float32) for _ in range(4)))
    with pytest.raises(GenerationError, match=r"^OpenVINO could not score: \S"):
        forward.begin(narrow).read([text])
    assert_last(model, [text], last_logits(beside, [text[5:]]))
    assert_last(model, [text], last_logits(forward.begin(), [text]))


def test_what_is_called_before_each_pass_can_stop_it(ir_folder):
    calls = []

    def twice_only():
        calls.append(None)
        if len(calls) > 2:
            raise InterruptedError("stop here")

    reading = ForwardModel(ir_folder("llama"), EXACT, twice_only).begin()
    reading.read([[9, 10]])
    reading.read([[11]])
    with pytest.raises(InterruptedError, match="stop here"):
        reading.read([[12]])
    assert reading.depth == 3

"""Zeros that take no memory before they are written to, and what stays as it is."""

from __future__ import annotations

import mmap
import threading

import psutil
import pytest
import torch

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.cpu.mapped_zeros import MappedZeros
from tests.generation.conftest import SMALL, random_prompts, settings_for
from tests.models import byte_tokenizer, random_model

MB = 2**20
LARGE = 256 * MB


def resident_bytes():
    return psutil.Process().memory_info().rss


@pytest.fixture
def refused_mappings(monkeypatch):
    """A list that gets an entry for each mapping that was asked for."""
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    return asked


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_large_zeros_take_memory_when_they_are_written_to(dtype):
    before = resident_bytes()
    with MappedZeros():
        zeros = torch.zeros(2, LARGE // 2 // dtype.itemsize, dtype=dtype, device="cpu")
    assert (zeros.shape, zeros.dtype) == ((2, LARGE // 2 // dtype.itemsize), dtype)
    assert resident_bytes() - before < LARGE // 4
    assert not zeros[:, :: MB // dtype.itemsize].any()
    zeros.fill_(1)
    assert resident_bytes() - before > LARGE // 2
    assert zeros.all()


@pytest.mark.parametrize("size", [(LARGE,), ((LARGE,),)], ids=["numbers", "tuple"])
def test_sizes_can_be_given_in_both_ways(size, refused_mappings):
    with MappedZeros():
        assert torch.zeros(*size, dtype=torch.uint8).shape == (LARGE,)
    assert refused_mappings == [(-1, LARGE)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1000),
        lambda: torch.ones(LARGE, dtype=torch.uint8),
        lambda: torch.zeros(LARGE, dtype=torch.uint8, device="meta"),
        lambda: torch.zeros(LARGE // 4, requires_grad=True),
    ],
    ids=["small", "ones", "another device", "other properties"],
)
def test_everything_else_is_made_as_always(make, refused_mappings):
    expected = make()
    with MappedZeros():
        made = make()
    assert (made.shape, made.dtype, made.device) == (expected.shape, expected.dtype, expected.device)
    assert made.requires_grad == expected.requires_grad
    assert refused_mappings == []


def test_the_default_device_counts(refused_mappings):
    with torch.device("meta"), MappedZeros():
        assert torch.zeros(LARGE, dtype=torch.uint8).device.type == "meta"
    assert refused_mappings == []


def test_a_refused_mapping_leaves_it_to_torch(refused_mappings):
    with MappedZeros():
        zeros = torch.zeros(LARGE, dtype=torch.uint8)
    assert len(refused_mappings) == 1
    assert not zeros.any()


def test_other_threads_are_not_concerned(refused_mappings):
    with MappedZeros():
        thread = threading.Thread(target=torch.zeros, args=(LARGE,), kwargs={"dtype": torch.uint8})
        thread.start()
        thread.join(60)
    assert refused_mappings == []


def test_an_engine_takes_memory_for_its_cache_as_requests_need_it():
    model = random_model("llama")
    settings = settings_for("transformers", SMALL).model_copy(update={"num_blocks": 30_000})
    before = resident_bytes()
    engine = open_engine(model, byte_tokenizer(), settings, "transformers")
    try:
        engine.submit(GenerationRequest(random_prompts(20, seed=1)[0], max_new_tokens=4)).result()
        size = cache_bytes(model, engine.stats().cache_tokens)
        assert size > LARGE
        assert resident_bytes() - before < size // 2
    finally:
        engine.close()


def cache_bytes(model, tokens):
    config = model.config
    return tokens * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize

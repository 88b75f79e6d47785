"""The size of the KV cache, from what it can use and what the machine can spare."""

import pytest
import torch

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation import EngineSettings
from mlflow_llm_plugins.generation.cache_plan import context_length, plan_cache
from mlflow_llm_plugins.hardware import available_memory_bytes
from tests.models import MAX_LENGTH, random_model

CPU = torch.device("cpu")


def test_a_small_model_gets_room_for_every_row_at_full_context():
    plan = plan_cache(EngineSettings(max_requests_per_batch=8), 512, 1000, CPU)
    assert plan.tokens * 0.85 >= 8 * 512


def test_a_long_context_fits_at_least_once():
    plan = plan_cache(EngineSettings(max_requests_per_batch=2), 100_000, 100, CPU)
    assert plan.tokens * 0.85 >= 100_000


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_the_cache_stays_under_its_share_of_the_free_memory(share):
    plan = plan_cache(EngineSettings(kv_cache_memory=share), 1_000_000, 500_000, CPU)
    assert plan.num_blocks * plan.bytes_per_block <= share * available_memory_bytes() * 1.05


def test_num_blocks_is_taken_as_it_is():
    assert plan_cache(EngineSettings(num_blocks=7, page_size=16), 512, 1000, CPU).tokens == 7 * 16


def test_too_little_memory_is_an_error_with_what_to_do():
    with pytest.raises(HardwareError, match=r"Free memory, raise kv_cache_memory, or load the model quantized\."):
        plan_cache(EngineSettings(kv_cache_memory=1e-6), 512, 1_000_000, CPU)


def test_the_context_is_the_models_unless_a_smaller_one_is_set():
    model = random_model("llama")
    assert context_length(model, EngineSettings()) == MAX_LENGTH
    assert context_length(model, EngineSettings(max_context_length=100)) == 100
    assert context_length(model, EngineSettings(max_context_length=10_000)) == MAX_LENGTH
    assert context_length(random_model("gpt2"), EngineSettings()) == MAX_LENGTH

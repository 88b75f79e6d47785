"""The size of the KV cache, from what it can use and what the machine can spare."""

import pytest

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation import EngineSettings
from mlflow_llm_plugins.generation.cache_plan import plan_cache
from mlflow_llm_plugins.generation.context import context_length
from tests.models import MAX_LENGTH, random_model

FREE = 2**33


def test_a_small_model_gets_room_for_every_row_at_full_context():
    plan = plan_cache(EngineSettings(max_requests_per_batch=8), 512, 1000, FREE)
    assert plan.tokens >= 8 * 512


def test_a_long_context_fits_at_least_once():
    plan = plan_cache(EngineSettings(max_requests_per_batch=2), 100_000, 100, FREE)
    assert plan.tokens >= 100_000


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_the_cache_stays_under_its_share_of_the_free_memory(share):
    plan = plan_cache(EngineSettings(kv_cache_memory=share), 1_000_000, 500_000, FREE)
    assert plan.num_blocks * plan.bytes_per_block <= share * FREE * 1.05


def test_num_blocks_is_taken_as_it_is():
    assert plan_cache(EngineSettings(num_blocks=7, page_size=16), 512, 1000, FREE).tokens == 7 * 16


def test_too_little_memory_is_an_error_with_what_to_do():
    with pytest.raises(HardwareError, match=r"Free memory, raise kv_cache_memory, or load the model quantized\."):
        plan_cache(EngineSettings(kv_cache_memory=1e-6), 512, 1_000_000, FREE)


def test_the_context_is_the_models_unless_a_smaller_one_is_set():
    config = random_model("llama").config.to_dict()
    assert context_length(config, EngineSettings()) == MAX_LENGTH
    assert context_length(config, EngineSettings(max_context_length=100)) == 100
    assert context_length(config, EngineSettings(max_context_length=10_000)) == MAX_LENGTH
    assert context_length(random_model("gpt2").config.to_dict(), EngineSettings()) == MAX_LENGTH


def test_a_scheduler_that_keeps_pages_back_gets_more_of_them():
    settings = EngineSettings(max_requests_per_batch=2)
    whole, kept_back = (plan_cache(settings, 100_000, 100, FREE, usable=usable) for usable in (1.0, 0.85))
    assert kept_back.tokens * 0.85 >= whole.tokens - settings.page_size >= 100_000


def test_what_grows_with_the_cache_counts_too():
    settings = EngineSettings(kv_cache_memory=0.1)
    plan = plan_cache(settings, 10**7, 1000, FREE, extra_bytes_per_token=3000)
    assert plan.num_blocks * plan.bytes_per_block <= 0.1 * FREE / 4

"""A device without memory is told in words that help, and the engine lives on."""

from __future__ import annotations

import threading

import pytest
import torch

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, random_prompts
from tests.generation.faults import Fault
from tests.models import byte_tokenizer, random_model

REQUEST = GenerationRequest(random_prompts(9)[0], max_new_tokens=6, eos_token_ids=())
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ...")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["transformers", "generate"])
def test_a_full_device_fails_what_is_open_with_what_helps_and_the_next_request_is_answered(name):
    model = random_model("llama")
    fault = Fault(model, paged=name == "transformers")
    engine = open_engine(model, byte_tokenizer(), SMALL, name)
    try:
        expected = engine.submit(REQUEST).result().token_ids
        fault.error = FULL
        with pytest.raises(LLMError) as failed:
            engine.submit(REQUEST).result()
        assert "the memory of the device is full; lower max_requests_per_batch, max_batch" in str(failed.value)
        assert "20.00 GiB" not in str(failed.value)
        for _ in range(200):
            if engine.stats().state == "running" and engine.stats().restarts == (name == "transformers"):
                break
            threading.Event().wait(0.05)
        assert engine.submit(REQUEST).result().token_ids == expected
    finally:
        engine.close()

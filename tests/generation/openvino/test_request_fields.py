"""A request as the library's fields, where the library's own ranges are smaller than a request's."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.openvino.generation_config import generation_config
from mlflow_llm_plugins.generation.openvino.request_fields import request_fields
from mlflow_llm_plugins.generation.requests import GenerationRequest


def fields_of(**options):
    request = GenerationRequest([3, 4], temperature=1.0, **options)
    return request_fields(AdmittedRequest(request, [3, 4], 8, frozenset({1}), 60.0))


def test_every_seed_is_one_of_its_own_negative_ones_too():
    seeds = [*range(-50, 50), 2**63, 1 - 2**63]
    assert len({fields_of(seed=seed)["rng_seed"] for seed in seeds}) == len(seeds)
    assert fields_of(seed=-1) == fields_of(seed=-1)


@pytest.mark.parametrize("top_k", [1, 50, 2**31, 2**64, 10**30])
def test_a_top_k_beyond_what_the_library_takes_keeps_all_tokens(top_k):
    config = generation_config(fields_of(top_k=top_k))
    config.validate()
    assert config.top_k == min(top_k, 2**31 - 1)

"""The table of what engines cannot do is what they do."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation import ENGINES, Constraint, GenerationRequest
from mlflow_llm_plugins.generation.features import FEATURES, FeatureCheck, Limits
from tests.generation.conftest import random_prompts

PROMPT = random_prompts(9)[0]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
# What a request says that asks for a feature; each is used alone.
ASKED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.0, "top_k": 5, "min_p": 0.1},
    "top_p": {"temperature": 1.0, "top_p": 0.9},
    "seed": {"temperature": 1.0, "seed": 7},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "logit_bias": {"logit_bias": {9: 1.0}},
    "logits_processors": {"logits_processors": (lambda input_ids, scores: scores,)},
    "min_new_tokens": {"min_new_tokens": 2},
    "constrained_min_new_tokens": {"min_new_tokens": 2, "constraint": Constraint("regex", "[a-z]{3}")},
    "stop": {"stop": ("e",)},
    "logprobs": {"top_logprobs": 0},
    "top_logprobs": {"top_logprobs": 3},
    "json_schema": {"constraint": Constraint("json_schema", json.dumps(SCHEMA))},
    "regex": {"constraint": Constraint("regex", "[a-z]{3}")},
    "choice": {"constraint": Constraint("choice", ("yes", "no"))},
    "lark": {"constraint": Constraint("lark", 'start: "a" | "b"')},
}


def test_every_feature_that_a_request_can_ask_for_is_asked_for_here():
    assert set(ASKED) == {name for name, feature in FEATURES.items() if feature.is_used is not None}


@pytest.mark.parametrize("name", ASKED)
def test_a_feature_is_told_from_the_request_that_asks_for_it(name):
    is_used = FEATURES[name].is_used
    assert is_used is not None
    assert is_used(GenerationRequest(PROMPT, **ASKED[name]))
    assert not is_used(GenerationRequest(PROMPT))


@pytest.mark.parametrize("engine", ENGINES)
def test_limits_are_about_features_that_exist_and_end_in_full_sentences(engine):
    limits = ENGINES[engine].limits
    assert {*limits.refused, *limits.approximated} <= set(FEATURES)
    assert not set(limits.refused) & set(limits.approximated)
    assert all(words.endswith(".") for words in (*limits.refused.values(), *limits.approximated.values()))


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_refuses_what_its_limits_say_and_answers_the_rest(open_model, engine, name):
    request = GenerationRequest(PROMPT, max_new_tokens=8, **ASKED[name])
    running = open_model("llama", engine)[1]
    reason = ENGINES[engine].limits.refused.get(name)
    if reason is None:
        running.check(request)
        assert running.submit(request).result().completion_tokens > 0
        return
    with pytest.raises(UnsupportedFeatureError) as refused:
        running.submit(request)
    assert str(refused.value) == f"The engine {engine!r} cannot do this: {FEATURES[name].label}. {reason}"
    assert running.stats().open_requests == 0


def test_what_is_done_in_another_way_is_told_once_an_engine(caplog):
    check = FeatureCheck("swift", Limits(approximated={"top_p": "Of the 1000 best tokens."}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            check.check(GenerationRequest(PROMPT, temperature=1.0, top_p=0.9))
            check.check(GenerationRequest(PROMPT, temperature=1.0, top_p=0.9, top_k=50))
    assert caplog.messages == ["The engine 'swift': top_p without top_k. Of the 1000 best tokens."]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"min_new_tokens": 2}, False),
        ({"constraint": Constraint("regex", "a")}, False),
        ({"min_new_tokens": 2, "constraint": Constraint("regex", "a")}, True),
    ],
    ids=["a least length", "a constraint", "both"],
)
def test_only_a_least_length_beside_a_constraint_is_told_to_come_after_it(caplog, options, told):
    with caplog.at_level(logging.WARNING):
        FeatureCheck("openvino", ENGINES["openvino"].limits).check(GenerationRequest(PROMPT, **options))
    assert ("min_new_tokens with a constraint" in caplog.text) == told

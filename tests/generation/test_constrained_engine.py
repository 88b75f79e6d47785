"""Constrained answers out of engines with random weights: of their form or cut off, and no neighbour notices."""

from __future__ import annotations

import json
import re
from itertools import cycle, islice

import jsonschema
import pytest

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation import Constraint, EngineSettings, GenerationRequest, open_engine
from mlflow_llm_plugins.generation.engines import engine_row
from tests.generation.conftest import plain_logprobs, random_prompts, settings_for
from tests.models import MAX_LENGTH, byte_tokenizer, random_model

JUDGE = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["yes", "no", "unsure"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "reason": {"type": "string", "maxLength": 30},
    },
    "required": ["verdict", "score", "reason"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 5}, "adult": {"type": "boolean"}},
                "required": ["name", "adult"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
ENUM = {"enum": ["red", "green", 3, None]}
DATE = r"20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]"
CHOICES = ("yes", "yes, but", 'say "no"', "später\n")
PROMPT = random_prompts(9)[0]


def follows(schema):
    return lambda text: jsonschema.validate(json.loads(text), schema) is None


FORMS = [
    (Constraint("json_schema", json.dumps(JUDGE)), follows(JUDGE)),
    (Constraint("json_schema", json.dumps(NESTED)), follows(NESTED)),
    (Constraint("json_schema", json.dumps(ENUM)), follows(ENUM)),
    (Constraint("json_schema", '{"type": "object"}'), lambda text: isinstance(json.loads(text), dict)),
    (Constraint("regex", DATE), lambda text: re.fullmatch(DATE, text) is not None),
    (Constraint("choice", CHOICES), lambda text: text in CHOICES),
    (Constraint("lark", 'start: ("a" "b")+ "."'), lambda text: re.fullmatch(r"(ab)+\.", text) is not None),
]


@pytest.fixture(scope="module", params=["transformers", "generate", "openvino"])
def engine_name(request):
    return request.param


@pytest.fixture(scope="module")
def engine(engine_name, loadable):
    settings = EngineSettings(max_requests_per_batch=8, max_queue_size=1000, kv_cache_memory=0.05)
    opened = open_engine(
        loadable("llama", engine_name), byte_tokenizer(), settings_for(engine_name, settings), engine_name
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def forms(engine_name):
    """The forms that the engine takes."""
    refused = engine_row(engine_name).limits.refused
    return [form for form in FORMS if form[0].kind not in refused]


@pytest.mark.slow
def test_of_500_constrained_requests_every_one_has_its_form_or_ends_for_length(engine, engine_name, forms):
    without_ends = None if engine_name == "openvino" else ()  # which needs one to mark the end of a form
    neighbour = GenerationRequest(PROMPT, max_new_tokens=40, temperature=1.0, seed=3, eos_token_ids=())
    alone = engine.submit(neighbour).result()
    forms = list(islice(cycle(forms), 500))
    prompts = random_prompts(*(3 + i % 30 for i in range(500)), seed=4)
    streams, neighbours = [], []
    for i, ((constraint, _), prompt) in enumerate(zip(forms, prompts, strict=True)):
        ends = None if i % 3 else without_ends
        streams.append(
            engine.submit(
                GenerationRequest(
                    prompt,
                    constraint=constraint,
                    temperature=(i % 9) / 4,
                    seed=i,
                    max_new_tokens=120,
                    eos_token_ids=ends,
                )
            )
        )
        if i % 10 == 0:
            neighbours.append(engine.submit(neighbour))
    outputs = [stream.result() for stream in streams]
    whole = [(form, output) for (form, output) in zip(forms, outputs, strict=True) if output.finish_reason == "stop"]
    assert [output.text for (_, is_valid), output in whole if not is_valid(output.text)] == []
    assert len(whole) > 350  # only unbounded forms run into their length
    for output in outputs:
        assert output.finish_reason == "stop" or output.completion_tokens == 120
    assert {stream.result().token_ids for stream in neighbours} == {alone.token_ids}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("ends", [None, ()], ids=["by a token", "without end tokens"])
def test_a_choice_ends_by_itself_and_its_stream_is_its_text(engine, engine_name, temperature, ends):
    request = GenerationRequest(
        PROMPT, constraint=Constraint("choice", CHOICES), temperature=temperature, eos_token_ids=ends, seed=1
    )
    if engine_name == "openvino" and ends == ():
        with pytest.raises(UnsupportedFeatureError, match=r"^A constrained answer needs an end token"):
            engine.submit(request)
        return
    stream = engine.submit(request)
    streamed = "".join(event.text for event in stream)
    assert streamed == stream.result().text
    assert streamed in CHOICES
    assert stream.result().finish_reason == "stop"


def test_logprobs_of_constrained_tokens_are_those_of_the_raw_logits(engine):
    form = Constraint("regex", "[a-z]{3}")
    bound = engine.submit(GenerationRequest(PROMPT, constraint=form, top_logprobs=0)).result()
    expected = plain_logprobs(random_model("llama"), [*PROMPT, *bound.token_ids])[len(PROMPT) - 1 :]
    assert bound.logprobs == pytest.approx(expected, abs=1e-4)


def test_penalties_that_forbid_what_the_form_needs_give_way_to_it(engine, engine_name):
    limits = engine_row(engine_name).limits.refused
    penalty = {"presence_penalty": 2.0} if "no_repeat_ngram_size" in limits else {"no_repeat_ngram_size": 1}
    output = engine.submit(GenerationRequest(PROMPT, constraint=Constraint("regex", "(ab){4}"), **penalty)).result()
    assert output.text == "abababab"


def test_a_form_that_cannot_be_kept_is_refused_before_it_is_queued(engine):
    schema = json.dumps({"type": "array", "uniqueItems": True})
    with pytest.raises(UnsupportedFeatureError, match="uniqueItems"):
        engine.submit(GenerationRequest(PROMPT, constraint=Constraint("json_schema", schema)))
    with pytest.raises(UnsupportedFeatureError, match="uniqueItems"):
        engine.check(GenerationRequest(PROMPT, constraint=Constraint("json_schema", schema)))
    assert engine.stats().open_requests == 0


@pytest.mark.parametrize(("engine_name", "page_size", "few"), [("transformers", 8, 12), ("openvino", 32, 4)])
def test_a_constrained_answer_survives_the_eviction_of_its_pages(loadable, engine_name, page_size, few):
    settings = settings_for(
        engine_name, EngineSettings(max_requests_per_batch=4, page_size=page_size, max_batch_tokens=32)
    )
    requests = [
        GenerationRequest(
            prompt,
            constraint=Constraint("json_schema", json.dumps(JUDGE)),
            temperature=1.0,
            seed=i,
            max_new_tokens=64,
            repetition_penalty=1.1,
        )
        for i, prompt in enumerate(random_prompts(20, 21, 22, 23, seed=6))
    ]
    answers = []
    for blocks in (few, 4 * MAX_LENGTH // page_size):
        engine = open_engine(
            loadable("llama", engine_name),
            byte_tokenizer(),
            settings.model_copy(update={"num_blocks": blocks}),
            engine_name,
        )
        answers.append([stream.result().token_ids for stream in [engine.submit(request) for request in requests]])
        engine.close()
    assert answers[0] == answers[1]

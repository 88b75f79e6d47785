"""The schemas of typed decisions: what `/v1/systemone` and `/v1/decisions` read and answer."""

from __future__ import annotations

from mlflow_llm_plugins.serving.openapi.schema import (
    BOOLEAN,
    COUNT,
    OBJECT,
    SHARE,
    SOME_TEXT,
    TEXT,
    Schema,
    any_of,
    array,
    closed,
    described,
    fields,
    mapping,
    number,
    one_of,
    or_null,
    record,
)
from mlflow_llm_plugins.serving.settings import ServingSettings

_CONTENT: Schema = {"type": ["string", "object", "array"]}
_PART = any_of(
    record(type=one_of("input_text", "output_text"), text=TEXT),
    record(type=one_of("refusal"), refusal=TEXT),
    record(type=one_of("input_json"), data={"type": ["object", "array"]}),
)
_PARTS = any_of(TEXT, array(_PART))
_ITEM = described(
    "A message, a call of a function or tool, or what it gave.",
    fields({"type": TEXT, "role": TEXT, "content": _PARTS, "output": _PARTS}),
)
_MODEL = {"model": described("Not looked at: the server has one model.", {})}
_MASSES = {"label_mass": described("How likely the model was to answer with any of the labels at all.", SHARE)}


def decision_schemas(settings: ServingSettings) -> dict[str, Schema]:
    """By the names that `ref` takes, with the limits of the server."""
    return {
        "SystemOneRequest": _systemone_request(settings),
        "SystemOneAnswer": record(
            model=TEXT,
            answers=mapping(_systemone_answer()),
            usage=record(input_tokens=COUNT, output_tokens=COUNT),
            diagnostics=mapping(record(**_MASSES)),
        ),
        "DecisionsRequest": _decisions_request(settings),
        "DecisionsAnswer": record(
            model=TEXT,
            answers=array(_decisions_answer()),
            usage=record(input_tokens=COUNT, output_tokens=COUNT, total_tokens=COUNT),
            diagnostics=array(record(**_MASSES)),
        ),
    }


def _systemone_request(settings: ServingSettings) -> Schema:
    description = or_null(_CONTENT)
    criteria = {
        "noul": or_null(closed({"true": description, "false": description})),
        "choice": mapping(description, 1, settings.max_options),
        "score": array(_CONTENT, 1, settings.max_levels),
    }
    questions = [
        closed(
            {"type": one_of(kind), "instructions": or_null(_CONTENT), "criteria": allowed},
            ["type", "instructions"] if kind == "noul" else ["type", "criteria"],
        )
        for kind, allowed in criteria.items()
    ]
    asked = mapping({"oneOf": questions}, 1, settings.max_questions)
    return fields(
        {**_MODEL, "state": described("What is judged.", _CONTENT), "questions": asked}, ["state", "questions"]
    )


def _systemone_answer() -> Schema:
    by_label = mapping(SHARE)
    return {
        "oneOf": [
            record(type=one_of("noul"), noul=SHARE),
            record(type=one_of("choice"), choice=TEXT, confidence=SHARE, probabilities=by_label),
            record(
                type=one_of("score"), score=number(minimum=0), legend=OBJECT, confidence=SHARE, probabilities=by_label
            ),
        ]
    }


def _decisions_request(settings: ServingSettings) -> Schema:
    choice = closed({"value": any_of(TEXT, BOOLEAN), "description": or_null(TEXT)}, ["value"])
    level = closed({"label": TEXT, "description": or_null(TEXT)}, ["label"])
    kinds = {
        "predicate": {},
        "choice": {"choices": array(choice, 2, settings.max_options)},
        "score": {"levels": array(level, 2, settings.max_levels)},
    }
    instructions = any_of(SOME_TEXT, array(_PART, 1))
    questions = [
        closed(
            {"type": one_of(kind), "name": or_null(TEXT), "instructions": instructions, **options},
            ["type", "instructions", *options],
        )
        for kind, options in kinds.items()
    ]
    asked = array({"oneOf": questions}, 1, settings.max_questions)
    judged = described("What is judged.", any_of(TEXT, array(_ITEM, 1)))
    return fields({**_MODEL, "input": judged, "questions": asked}, ["input", "questions"])


def _decisions_answer() -> Schema:
    choice = record(value=any_of(TEXT, BOOLEAN), probability=SHARE)
    level = record(value=COUNT, label=TEXT, probability=SHARE)
    name = or_null(TEXT)
    return {
        "oneOf": [
            record(type=one_of("predicate"), name=name, probability=SHARE),
            record(
                type=one_of("choice"),
                name=name,
                choice=any_of(TEXT, BOOLEAN),
                confidence=SHARE,
                probabilities=array(choice),
            ),
            record(
                type=one_of("score"),
                name=name,
                score=number(minimum=0),
                confidence=SHARE,
                probabilities=array(level),
            ),
        ]
    }

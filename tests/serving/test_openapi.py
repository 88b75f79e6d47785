"""The OpenAPI document names every route, every field that is read, and what really is answered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import ChatCompletionRequest, CompletionRequest
from mlflow_llm_plugins.openai_api.parameters import OF_SOME_REQUESTS, UNSUPPORTED
from mlflow_llm_plugins.openai_api.requests import OPTION_FIELDS
from mlflow_llm_plugins.serving import ServingSettings
from mlflow_llm_plugins.serving.decisions import Decisions
from mlflow_llm_plugins.serving.front import OPEN_PATHS
from mlflow_llm_plugins.serving.keys import ApiKeys
from mlflow_llm_plugins.serving.openapi import openapi_of
from mlflow_llm_plugins.serving.routes import Routes, our_app

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}]}
PROMPT = {"prompt": ["A loop", [5, 6]], "max_tokens": 2}
QUESTIONS = {
    "a": {"type": "noul", "instructions": "Is it short?"},
    "b": {"type": "choice", "criteria": {"one": "It is one.", "two": None}},
    "c": {"type": "score", "criteria": ["low", {"level": "high"}]},
}
DECISIONS = [
    {"type": "predicate", "instructions": "Is it short?"},
    {"type": "choice", "name": "b", "instructions": "Which?", "choices": [{"value": "one"}, {"value": True}]},
    {"type": "score", "instructions": [{"type": "input_text", "text": "How?"}], "levels": [{"label": "x"}] * 2},
]
REQUESTS = {"ChatCompletionRequest": (ChatCompletionRequest, CHAT), "CompletionRequest": (CompletionRequest, PROMPT)}


def document(settings=None, keys=()):
    app = FastAPI()
    for path in ("/ping", "/health"):
        app.get(path, summary="Stock")(lambda: None)
    return openapi_of(app.openapi, settings or ServingSettings(), ApiKeys(keys))()


def operations(openapi):
    return {(method, path): item[method] for path, item in openapi["paths"].items() for method in item}


def nodes(value):
    """Every object inside a JSON value."""
    yield from [value] if isinstance(value, dict) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def validator(openapi, schema):
    """Checks values against a schema with references into the document."""
    return Draft202012Validator({**schema, "components": openapi["components"]})


def test_every_schema_is_one_and_every_reference_leads_to_one():
    openapi = document()
    names = openapi["components"]["schemas"].keys()
    for schema in [
        *openapi["components"]["schemas"].values(),
        *(node["schema"] for node in nodes(openapi) if "schema" in node),
    ]:
        Draft202012Validator.check_schema(schema)
    references = {node["$ref"] for node in nodes(openapi) if "$ref" in node}
    assert references == {f"#/components/schemas/{name}" for name in names}


def test_every_operation_has_its_own_id_and_every_answer_a_description():
    ours = operations(document())
    ids = [operation["operationId"] for operation in ours.values()]
    assert len(set(ids)) == len(ids)
    for operation in ours.values():
        assert all(response["description"] for response in operation["responses"].values())
    assert [parameter["name"] for parameter in ours["get", "/v1/models/{name}"]["parameters"]] == ["name"]


def test_the_routes_of_the_server_are_in_the_document_and_no_others():
    server = SimpleNamespace(settings=ServingSettings())
    app = our_app(server, Routes(server), Decisions(server, {}), invocations=Routes(server).chat)
    routes = {
        (method.lower(), route.path.replace(":path", ""))
        for route in app.routes
        for method in route.methods - {"HEAD"}
        if not route.path.startswith("/invocations/")
    }
    assert operations(document()).keys() - {("get", "/ping")} == routes


def test_mlflow_s_own_routes_stay_where_the_server_has_none_of_its_own():
    paths = document()["paths"]
    assert paths["/ping"]["get"]["summary"] == "Stock"
    assert paths["/health"]["get"]["operationId"] == "health"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_field_is_in_the_document_when_requests_read_it(name):
    parser, body = REQUESTS[name]
    documented = document()["components"]["schemas"][name]["properties"].keys() - {"model"}
    for field in documented:
        with pytest.raises(InvalidInputError, match=field):
            parser.parse({**body, field: object()})
    for field in {*OPTION_FIELDS, *OF_SOME_REQUESTS, *UNSUPPORTED} - documented:
        with pytest.raises(UnsupportedFeatureError, match=field):
            parser.parse({**body, field: object()})


def test_the_document_tells_the_limits_of_this_server():
    settings = ServingSettings(max_choices=3, max_stop=2, max_new_tokens=9, max_prompts=4, max_questions=5)
    openapi = document(settings)
    schemas = openapi["components"]["schemas"]
    chat = validator(openapi, schemas["ChatCompletionRequest"])
    for allowed, refused in (
        ({"n": 3}, {"n": 4}),
        ({"stop": ["x"] * 2}, {"stop": ["x"] * 3}),
        ({"max_tokens": 9}, {"max_tokens": 10}),
    ):
        assert chat.is_valid({**CHAT, **allowed})
        assert not chat.is_valid({**CHAT, **refused})
    completion = validator(openapi, schemas["CompletionRequest"])
    assert completion.is_valid({"prompt": ["x"] * 4})
    assert not completion.is_valid({"prompt": ["x"] * 5})
    questions = {str(i): QUESTIONS["a"] for i in range(6)}
    systemone = validator(openapi, schemas["SystemOneRequest"])
    assert not systemone.is_valid({"state": "x", "questions": questions})
    assert systemone.is_valid({"state": "x", "questions": dict(list(questions.items())[:5])})


def test_a_server_with_keys_asks_for_one_except_where_it_is_watched():
    for (method, path), operation in operations(document(keys=["secret"])).items():
        is_open = path in OPEN_PATHS
        assert operation.get("security") == (None if is_open else [{"bearer": []}]), (method, path)
        assert ("401" in operation["responses"]) != is_open, (method, path)
    assert "secret" not in str(document(keys=["secret"]))
    assert not any("security" in operation for operation in operations(document()).values())


def test_the_document_is_built_when_it_is_asked_for_and_once():
    asked = []

    def stock():
        asked.append(True)
        return {"openapi": "3.1.0", "info": {}, "paths": {}}

    openapi = openapi_of(stock, ServingSettings(), ApiKeys())
    assert asked == []
    assert openapi() is openapi()
    assert asked == [True]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "n": 2, "max_tokens": 2}),
        ("/v1/completions", {**PROMPT, "seed": 1, "temperature": 1}),
        ("/v1/systemone", {"state": {"said": "Yes."}, "questions": QUESTIONS}),
        ("/v1/decisions", {"input": [{"role": "user", "content": "Yes."}], "questions": DECISIONS}),
        ("/invocations", {"inputs": ["A loop", "A class"]}),
        ("/invocations", {"dataframe_split": {"columns": ["prompt"], "data": [["A loop"]]}}),
        ("/invocations", CHAT),
        ("/invocations", PROMPT),
        ("/v1/chat/completions", {"messages": 5}),
        ("/v1/decisions", {"input": 5}),
        ("/invocations", {"inputs": 5}),
        ("/v1/embeddings", {}),
    ],
)
def test_requests_and_answers_are_as_documented(client, path, body):
    openapi = document()
    operation = openapi["paths"][path]["post"]
    response = client.post(path, json=body)
    if response.status_code == 200:
        asked = operation["requestBody"]["content"]["application/json"]["schema"]
        validator(openapi, asked).validate(body)
    answered = operation["responses"][str(response.status_code)]["content"][response.headers["content-type"]]
    validator(openapi, answered["schema"]).validate(response.json())


def test_what_the_server_tells_of_itself_is_as_documented(client):
    openapi = document()
    [model] = client.get("/v1/models").json()["data"]
    for path, name, status in [
        ("/v1/models", "", 200),
        ("/v1/models/{name}", model["id"], 200),
        ("/v1/models/{name}", "none", 404),
        ("/health", "", 200),
        ("/ready", "", 200),
    ]:
        response = client.get(path.format(name=name))
        assert response.status_code == status
        answered = openapi["paths"][path]["get"]["responses"][str(status)]["content"]["application/json"]
        validator(openapi, answered["schema"]).validate(response.json())

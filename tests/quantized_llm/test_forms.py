"""Answers of a given form from a saved artifact, through MLflow's own pyfunc."""

from __future__ import annotations

import json
import re

import jsonschema
import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins import quantized_llm

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["yes", "no"]}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["verdict", "score"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Is a loop a statement?"}]
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("forms") / "model"
    quantized_llm.save_model(checkpoint, path)
    loaded = mlflow.pyfunc.load_model(str(path))
    yield loaded
    loaded.get_raw_model().close()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_chat_with_a_json_schema_gets_an_answer_that_validates(model, temperature):
    answer = model.predict(
        {"messages": MESSAGES, "response_format": RESPONSE_FORMAT, "temperature": temperature, "max_tokens": 60}
    )
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_a_streamed_chat_keeps_its_form_too(model):
    chunks = model.predict_stream({"messages": MESSAGES, "response_format": RESPONSE_FORMAT, "max_tokens": 60})
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("params", "is_right"),
    [
        ({"choice": ["yes", "no", "yes and no"]}, lambda text: text in {"yes", "no", "yes and no"}),
        ({"regex": "[a-c]{2}-[0-9]"}, lambda text: re.fullmatch("[a-c]{2}-[0-9]", text) is not None),
        ({"json_schema": json.dumps(SCHEMA)}, lambda text: jsonschema.validate(json.loads(text), SCHEMA) is None),
    ],
    ids=["choice", "regex", "json_schema"],
)
def test_rows_keep_the_form_that_their_params_give(model, params, is_right):
    rows = pd.DataFrame({"prompt": ["Is it?", "Is it so, really?", "No?"]})
    answers = model.predict(rows, params={**params, "temperature": 1.0, "max_tokens": 60})
    assert len(answers) == 3
    assert all(is_right(answer) for answer in answers)


def test_a_schema_that_cannot_be_kept_is_refused_with_its_reason_as_bad_input(model):
    schema = {"type": "array", "uniqueItems": True}
    with pytest.raises(MlflowException, match="uniqueItems") as error:
        model.predict(["x"], params={"json_schema": json.dumps(schema)})
    assert error.value.error_code == "INVALID_PARAMETER_VALUE"

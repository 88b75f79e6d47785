"""The signature lets every payload through, and MLflow's enforcement of its parameters fits JSON."""

from __future__ import annotations

import json
import math

import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from mlflow.models.utils import _enforce_params_schema
from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, COMPLETIONS_MODEL_INPUT_SCHEMA

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.quantized_llm.signature import (
    frame_is_request,
    given,
    params_only_signature,
    resolve_signature,
)

ALL = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "seed": 2**63 - 1,
    "max_tokens": 5,
    "max_new_tokens": 5,
    "n": 2,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "json_schema": "{}",
    "regex": "a+",
    "stop_sequences": ["a", "b"],
    "choice": ["yes", "no"],
}


def enforced(params):
    return _enforce_params_schema(params, params_only_signature().params)


def test_it_has_parameters_and_nothing_else():
    signature = params_only_signature()
    assert (signature.inputs, signature.outputs) == (None, None)
    assert {spec.name for spec in signature.params} == set(ALL)


def test_what_is_not_given_stays_visible():
    assert given(enforced({})) == {}
    assert given(enforced({"temperature": 0.0, "top_k": None, "choice": []})) == {"temperature": 0.0}
    assert given(None) == {}


def test_every_parameter_passes_as_it_came():
    assert given(enforced(ALL)) == ALL


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty"])
def test_whole_numbers_pass_where_a_fraction_may_stand(name):
    assert enforced({name: 1})[name] == 1.0


@pytest.mark.parametrize("params", [{"temperature": "0.5"}, {"seed": 1.5}, {"stop_sequences": "a"}, {"n": True}])
def test_values_of_another_type_are_refused_by_mlflow(params):
    with pytest.raises(MlflowException, match=next(iter(params))):
        enforced(params)


def test_it_survives_being_written_to_an_mlmodel():
    signature = params_only_signature()
    assert ModelSignature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


@pytest.mark.parametrize(
    ("name", "inputs"), [("chat", CHAT_MODEL_INPUT_SCHEMA), ("completions", COMPLETIONS_MODEL_INPUT_SCHEMA)]
)
def test_a_task_s_name_gives_mlflow_s_columns_with_our_parameters(name, inputs):
    signature = resolve_signature(name)
    assert signature.inputs == inputs
    assert signature.outputs is not None
    assert signature.params == params_only_signature().params
    assert frame_is_request(signature)


def test_a_signature_of_the_user_is_taken_as_it_is():
    own = infer_signature(["a"], ["b"])
    assert resolve_signature(own) is own
    assert not frame_is_request(own)


def test_no_signature_means_parameters_only():
    assert resolve_signature(None) == params_only_signature()
    assert not frame_is_request(params_only_signature())
    assert not frame_is_request(None)


@pytest.mark.parametrize("signature", ["embeddings", 7, {}, math.nan])
def test_anything_else_is_refused(signature):
    with pytest.raises(InvalidInputError) as refusal:
        resolve_signature(signature)
    assert str(refusal.value) == (
        f"signature must be None, 'chat', 'completions' or a ModelSignature, got {signature!r}."
    )

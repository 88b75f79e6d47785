"""What a command writes down when it changes a deployment."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.deployments.local.records import Refusal, Spec, Status, read_record, write_record
from mlflow_llm_plugins.deployments.local.specs import first_spec, next_spec
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.errors import DeploymentError


def test_what_is_not_said_stays(recorded):
    folder = recorded(spec={"config": {"port": 5001, "workers": 2}}, status={"state": "ready"})
    spec = next_spec(View.of(folder), {"workers": "3"})
    assert spec.config == {"port": 5001, "workers": "3"}
    assert spec.generation == 2
    assert spec.model == read_record(Spec, folder.spec).model


def test_of_settings_that_are_dictionaries_what_is_not_said_stays_too(recorded):
    config = {"environment": {"A": "1", "B": "2"}, "model_config": {"quantization": "nf4"}}
    folder = recorded(spec={"config": config}, status={"state": "ready"})
    spec = next_spec(View.of(folder), {"environment": {"B": "3"}, "model_config": {"max_queue_size": 9}})
    assert spec.config == {
        "environment": {"A": "1", "B": "3"},
        "model_config": {"quantization": "nf4", "max_queue_size": 9},
    }


def test_null_takes_a_key_out_of_settings_that_are_dictionaries(recorded):
    config = {"environment": {"A": "1", "B": "2"}, "model_config": {"quantization": "nf4"}}
    folder = recorded(spec={"config": config}, status={"state": "ready"})
    spec = next_spec(View.of(folder), {"environment": {"B": None}, "model_config": {"quantization": None}})
    assert spec.config == {"environment": {"A": "1"}, "model_config": {}}
    assert first_spec("chat", {"labels": {"a": None, "b": "1"}}).config == {"labels": {"b": "1"}}


@pytest.mark.parametrize("serving", [True, False], ids=["killed", "killed again while it started"])
def test_an_update_goes_on_from_what_was_ready_where_the_last_one_was_left(recorded, serving):
    """Its supervisor was killed before the new version was ready."""
    folder = recorded(spec={"config": {"workers": 1}}, status={"state": "ready"})
    ready = read_record(Spec, folder.spec)
    write_record(ready.model_copy(update={"generation": 2, "config": {"workers": 9}}), folder.spec)
    known = {"serving": ready} if serving else {"serving": None, "last_ready": ready}
    write_record(read_record(Status, folder.status).model_copy(update=known), folder.status)
    view = View.of(folder)
    assert view.serving == ready
    assert next_spec(view, {}).config == {"workers": 1}
    assert next_spec(view, {}).generation == 3


def test_a_setting_can_be_taken_back(recorded):
    config = {"api_key_file": "/k", "port": 5001, "environment": {"A": "1"}}
    folder = recorded(spec={"config": config}, status={"state": "ready"})
    spec = next_spec(View.of(folder), {"generate_api_key": True}, ["api_key_file", "environment", "devices"])
    assert spec.config == {"port": 5001, "generate_api_key": True}


def test_an_update_goes_on_from_what_serves_where_the_last_one_was_refused(recorded):
    folder = recorded(spec={"config": {"workers": 1}}, status={"state": "ready"})
    served = read_record(Spec, folder.spec)
    write_record(served.model_copy(update={"generation": 2, "config": {"workers": 9}}), folder.spec)
    status = read_record(Status, folder.status)
    write_record(status.model_copy(update={"refused": Refusal(generation=2, error="no")}), folder.status)
    spec = next_spec(View.of(folder), {"port": 5002})
    assert spec.config == {"workers": 1, "port": 5002}
    assert spec.generation == 3


def test_an_update_goes_on_from_what_serves_where_the_last_model_is_gone(recorded, model, tmp_path):
    folder = recorded(status={"state": "ready"})
    served = read_record(Spec, folder.spec)
    gone = model.model_copy(update={"path": tmp_path / "gone"})
    write_record(served.model_copy(update={"generation": 2, "model": gone}), folder.spec)
    spec = next_spec(View.of(folder), {})
    assert (spec.model, spec.generation) == (model, 3)


def test_a_damaged_spec_is_made_new_from_what_served(recorded):
    folder = recorded(spec={"config": {"port": 5001}}, status={"state": "ready"})
    folder.spec.write_text("{")
    assert next_spec(View.of(folder), {}).config == {"port": 5001}


def test_with_nothing_to_go_on_from_an_update_is_refused(recorded):
    folder = recorded()
    folder.spec.write_text("{")
    with pytest.raises(DeploymentError, match=r"damaged.*Delete it and create it again"):
        next_spec(View.of(folder), {})

"""Models that metrics ask: loaded once, shared where that is safe, closed when nobody needs them."""

from __future__ import annotations

import gc

import mlflow
import pytest

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.engines import find_engine
from mlflow_llm_plugins.metrics.judge.backends.local import LocalJudge
from mlflow_llm_plugins.metrics.models import ModelHandle
from tests.models import byte_tokenizer, random_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("handle") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), bundle_plugin=False)
    return str(path)


@pytest.fixture
def logged(tiny_llama, tracking):
    return quantized_llm.log_model(str(tiny_llama), name="judge", registered_model_name="judge", bundle_plugin=False)


def test_handles_of_one_version_share_the_model_whatever_they_call_it(logged):
    mlflow.MlflowClient().set_registered_model_alias("judge", "best", 1)
    one, other = ModelHandle("models:/judge/1", "one"), ModelHandle("models:/judge@best", "other")
    by_id = ModelHandle(f"models:/{logged.model_id}", "third")
    assert other.origin == {}
    engine = one.engine()
    assert other.engine() is engine
    assert by_id.engine() is engine
    assert (other.name, other.origin) == (
        "models:/judge@best",
        {"version": "models:/judge/1", "model_id": logged.model_id},
    )
    judge = LocalJudge("models:/judge@best")
    judge.check()
    assert judge.describe() == {"backend": "local", "model": other.name, **other.origin}
    for handle in (one, by_id, judge):
        handle.close()
    assert len(engine.score(["a b c"])) == 1  # the other one needs it
    other.close()
    gc.collect()
    with pytest.raises(EngineUnavailableError):
        engine.score(["a b c"])


def test_a_version_that_was_deleted_and_made_again_is_another_model(logged, tmp_path, tracking):
    old = ModelHandle("models:/judge/1", "old")
    engine = old.engine()
    mlflow.MlflowClient().delete_registered_model("judge")
    model = {"model": random_model("llama", seed=7), "tokenizer": byte_tokenizer()}
    quantized_llm.log_model(model, name="judge", registered_model_name="judge", bundle_plugin=False)
    new = ModelHandle("models:/judge/1", "new")
    assert new.engine() is not engine
    assert new.engine().score(["abc"])[0] != pytest.approx(engine.score(["abc"])[0])
    old.close()
    new.close()


def test_a_version_of_no_logged_model_is_told_apart_by_when_it_was_registered(folder, tracking):
    client = mlflow.MlflowClient()
    engines = []
    handles = []
    for _ in range(2):
        client.create_registered_model("saved")
        client.create_model_version("saved", folder)
        handles.append(ModelHandle("models:/saved/1", "test"))
        engines.append(handles[-1].engine())
        client.delete_registered_model("saved")
    assert engines[0] is not engines[1]
    assert handles[0].origin == {"version": "models:/saved/1"}
    for handle in handles:
        handle.close()


def test_forgotten_handle_closes_its_model(folder):
    handle = ModelHandle(folder, "test")
    engine = handle.engine()
    assert handle.engine() is engine
    del handle
    gc.collect()
    with pytest.raises(EngineUnavailableError):
        engine.score(["a b c"])


def test_loading_changes_no_active_model(logged):
    mlflow.clear_active_model()
    handle = ModelHandle(logged.model_uri, "test")
    handle.engine()
    assert mlflow.get_active_model_id() is None
    handle.close()


def test_model_that_was_given_stays_open(folder):
    model = mlflow.pyfunc.load_model(folder)
    handle = ModelHandle(model, "test")
    assert handle.engine() is find_engine(model)
    handle.close()
    assert len(handle.engine().score(["a b c"])) == 1
    model.get_raw_model().close()


def test_unknown_model_is_refused_with_its_uri_and_purpose(tracking):
    with pytest.raises(InvalidInputError, match=r"perplexity\(model=\.\.\.\): 'models:/none/1' cannot be loaded"):
        ModelHandle("models:/none/1", "perplexity(model=...)").engine()


def test_function_is_refused():
    with pytest.raises(InvalidInputError, match=r"needs a model whose probabilities can be read.*got function"):
        ModelHandle(lambda frame: frame, "a judge").engine()

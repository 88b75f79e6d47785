"""What is changed of MLflow, and that nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import mlflow
import pytest
from mlflow.pyfunc import scoring_server

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.mlflow_hooks import SWITCH, HooksProvider


class Plain(mlflow.pyfunc.PythonModel):
    """A model of another flavor."""

    def predict(self, model_input):
        return model_input


def run(code, folder, **environment):
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def artifact(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("hooks") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), bundle_plugin=False)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model of another flavor."""
    path = tmp_path_factory.mktemp("hooks") / "plain"
    mlflow.pyfunc.save_model(str(path), python_model=Plain(), pip_requirements=[])
    return path


def test_the_provider_gives_no_tags():
    provider = HooksProvider()
    assert (provider.in_context(), provider.tags()) == (False, {})


def test_a_server_of_another_flavor_stays_as_it_is(plain):
    stock = scoring_server.init.__wrapped__
    model = mlflow.pyfunc.load_model(str(plain))
    ours, theirs = scoring_server.init(model), stock(model)
    assert [route.path for route in ours.routes] == [route.path for route in theirs.routes]
    assert [each.cls for each in ours.user_middleware] == [each.cls for each in theirs.user_middleware]
    assert ours.openapi() == theirs.openapi()


SHOW = """
import sys, mlflow
from mlflow.pyfunc import scoring_server
from mlflow.models import flavor_backend_registry, python_api, cli
import mlflow.pyfunc
patched = [hasattr(each, "__wrapped__") for each in (
    scoring_server.init, flavor_backend_registry.get_flavor_backend, python_api.get_flavor_backend,
    cli.get_flavor_backend, mlflow.pyfunc.get_flavor_backend)]
print(patched, [name for name in sys.modules if name.startswith("mlflow_llm_plugins.serving")])
"""


def test_every_name_of_a_patched_function_is_the_patched_one(tmp_path):
    assert run(SHOW, tmp_path).strip().splitlines()[-1] == "[True, True, True, True, True] []"


def test_the_same_when_this_package_is_imported_first(tmp_path):
    assert "[True, True, True, True, True] []" in run("import mlflow_llm_plugins.quantized_llm\n" + SHOW, tmp_path)


def test_the_switch_leaves_mlflow_alone(tmp_path):
    assert "[False, False, False, False, False] []" in run(SHOW, tmp_path, **{SWITCH: "0"})


def test_a_server_that_is_to_ask_for_keys_does_not_start_where_it_cannot_be_extended(tmp_path):
    (tmp_path / "odd.py").write_text("value = 1\n", encoding="utf-8")
    code = """
    import sys
    from mlflow_llm_plugins.mlflow_hooks import serve_language_models, watch_imports
    watch_imports({"odd": serve_language_models})
    try:
        import odd
    except AttributeError as error:
        print("refused")
    """
    served = {"__pyfunc_model_path__": "x", "MLFLOW_LLM_API_KEY": "secret"}
    assert run(code, tmp_path, **served).strip() == "refused"


def test_a_reload_does_not_patch_twice(tmp_path):
    code = """
    import importlib, mlflow
    from mlflow.pyfunc import scoring_server
    import mlflow_llm_plugins.mlflow_hooks as hooks
    importlib.reload(hooks)
    hooks.HooksProvider()
    print(hasattr(scoring_server.init.__wrapped__, "__wrapped__"))
    """
    assert run(code, tmp_path).strip().splitlines()[-1] == "False"


def test_a_server_that_is_to_ask_for_keys_says_that_it_does_not(tmp_path):
    code = "import logging; logging.basicConfig(); import mlflow"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, SWITCH: "0", "MLFLOW_LLM_API_KEY": "secret", "__pyfunc_model_path__": "x"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "NO API KEY IS ASKED FOR" in done.stderr
    assert "secret" not in done.stderr


def test_an_mlflow_that_looks_different_goes_on_with_one_warning(tmp_path):
    (tmp_path / "odd.py").write_text("value = 1\n", encoding="utf-8")
    code = """
    import sys
    from mlflow_llm_plugins.mlflow_hooks import serve_language_models, watch_imports
    watch_imports({"odd": serve_language_models})
    import odd
    print(odd.value, type(odd.__spec__.loader).__name__)
    """
    assert run(code, tmp_path).strip() == "1 SourceFileLoader"


def copied(uri, tmp_path):
    """Bytes that `get_flavor_backend` puts into the folder for temporary files, at most."""
    code = """
    import os, sys, tempfile, threading, json
    import mlflow
    from mlflow.models.flavor_backend_registry import get_flavor_backend
    from mlflow.models import Model
    folder, most = tempfile.gettempdir(), 0
    load = Model.load.__func__
    def look(cls, path):
        global most
        files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
        most = max(most, sum(map(os.path.getsize, files)))
        return load(cls, path)
    Model.load = classmethod(look)
    backend = get_flavor_backend(sys.argv[1], env_manager="local")
    print(json.dumps([type(backend).__name__, most, backend._config["loader_module"]]))
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), uri],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, most, loader = json.loads(done.stdout.strip().splitlines()[-1])
    assert name == "PyFuncBackend"
    return most, loader


@pytest.mark.parametrize("form", ["path", "file URI"])
def test_the_backend_of_our_flavor_is_found_without_a_copy_of_the_weights(artifact, form, tmp_path):
    most, loader = copied(str(artifact) if form == "path" else artifact.as_uri(), tmp_path)
    assert most < 20_000
    assert loader == "mlflow_llm_plugins.quantized_llm"


def test_the_backend_of_a_registered_model_is_found_by_its_mlmodel_alone(tiny_llama, tracking, tmp_path):
    quantized_llm.log_model(str(tiny_llama), name="chat", registered_model_name="chat", bundle_plugin=False)
    mlflow.MlflowClient().set_registered_model_alias("chat", "best", "1")
    most, loader = copied("models:/chat@best", tmp_path)
    assert most < 20_000
    assert loader == "mlflow_llm_plugins.quantized_llm"


def test_other_flavors_are_read_by_mlflow_itself(plain, tmp_path):
    assert copied(str(plain), tmp_path)[1] == "mlflow.pyfunc.model"


def test_an_unknown_model_gets_mlflow_s_own_error(tmp_path):
    from mlflow.models.flavor_backend_registry import get_flavor_backend

    with pytest.raises(mlflow.MlflowException, match="File none"):
        get_flavor_backend(str(tmp_path / "none"))

"""What is changed of MLflow, and that nothing else is."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import click
import mlflow
import pandas
import pytest
from click.testing import CliRunner
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse, cli
from mlflow.deployments.interface import plugin_store
from mlflow.models import container
from mlflow.pyfunc import scoring_server

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.mlflow_hooks import SWITCH, HooksProvider, keep_metrics_whole, repair_deployment_commands


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
from mlflow.deployments.cli import commands
from mlflow.models import container, flavor_backend_registry, python_api, cli
import mlflow.pyfunc
patched = [hasattr(each, "__wrapped__") for each in (
    scoring_server.init, flavor_backend_registry.get_flavor_backend, python_api.get_flavor_backend,
    cli.get_flavor_backend, mlflow.pyfunc.get_flavor_backend, container._serve_pyfunc,
    commands.commands["predict"].callback)]
named = [option.name for option in commands.commands["create-endpoint"].params]
print(set(patched), "name" in named, [name for name in sys.modules if name.startswith("mlflow_llm_plugins.serving")])
"""


def test_every_name_of_a_patched_function_is_the_patched_one(tmp_path):
    assert run(SHOW, tmp_path).strip().splitlines()[-1] == "{True} True []"


def test_the_same_when_this_package_is_imported_first(tmp_path):
    assert "{True} True []" in run("import mlflow_llm_plugins.quantized_llm\n" + SHOW, tmp_path)


def test_the_switch_leaves_mlflow_alone(tmp_path):
    assert "{False} False []" in run(SHOW, tmp_path, **{SWITCH: "0"})


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


class Started(Exception):
    """In place of the server that a container starts."""


@pytest.fixture
def command_in_container(monkeypatch):
    """The command that a container starts for an artifact, on a machine of seven processors."""
    for name in ("DISABLE_NGINX", "MLFLOW_DISABLE_ENV_CREATION"):
        monkeypatch.setenv(name, "true")
    monkeypatch.delenv("MLFLOW_MODELS_WORKERS", raising=False)
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 7)

    def start(command, env):
        raise Started(command[-1])

    def command(artifact):
        monkeypatch.setattr(container, "MODEL_PATH", str(artifact))
        monkeypatch.setattr(container, "Popen", start)
        with pytest.raises(Started) as started:
            container._serve("local")
        return str(started.value)

    return command


def test_a_container_serves_our_model_by_one_worker_and_says_how_to_have_more(artifact, command_in_container, capsys):
    assert "--workers 1 " in command_in_container(artifact)
    assert capsys.readouterr().err.count("MLFLOW_MODELS_WORKERS=N asks for N, each with a copy of it.") == 1
    assert "MLFLOW_MODELS_WORKERS" not in os.environ


def test_a_container_serves_our_model_by_as_many_workers_as_it_is_told(
    artifact, command_in_container, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_MODELS_WORKERS", "3")
    assert "--workers 3 " in command_in_container(artifact)
    assert "MLFLOW_MODELS_WORKERS" not in capsys.readouterr().err
    assert os.environ["MLFLOW_MODELS_WORKERS"] == "3"


def test_a_container_of_another_flavor_has_a_worker_a_processor(plain, command_in_container, capsys):
    assert "--workers 7 " in command_in_container(plain)
    assert "MLFLOW_MODELS_WORKERS" not in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["", "2"])
@pytest.mark.parametrize("key", ["", "MLFLOW_LLM_API_KEY", "MLFLOW_LLM_API_KEY_FILE"])
def test_a_container_without_a_key_says_so_loudly(artifact, command_in_container, monkeypatch, capsys, key, workers):
    monkeypatch.setenv("MLFLOW_MODELS_WORKERS", workers)
    if key:
        monkeypatch.setenv(key, "x")
    command_in_container(artifact)
    assert ("ANYBODY WHO REACHES THE CONTAINER'S PORT" in capsys.readouterr().err) == (not key)


@pytest.fixture
def asked(monkeypatch):
    """What the clients of two targets are asked for: `local`, which is ours, and `other`."""
    calls = []

    class Client(BaseDeploymentClient):
        create_deployment = update_deployment = delete_deployment = list_deployments = get_deployment = None

        def predict(self, deployment_name=None, inputs=None, endpoint=None):
            calls.append(inputs)
            return PredictionsResponse({"predictions": []})

        def explain(self, deployment_name=None, df=None, endpoint=None):
            calls.append(df)

        def create_endpoint(self, name, config=None):
            calls.append((name, config))
            return {"name": name}

    for name in ("local", "other"):
        plugin = SimpleNamespace(Client=Client, target_help=None, run_local=None)
        monkeypatch.setitem(plugin_store.registry, name, plugin)
    return calls


def deployments(*arguments):
    """The result of `mlflow deployments ...`."""
    return CliRunner().invoke(cli.commands, [str(argument) for argument in arguments])


@pytest.mark.parametrize("target", ["local", "other"])
def test_create_endpoint_creates_one_for_every_target(asked, target):
    result = deployments("create-endpoint", "-t", target, "--endpoint", "e", "-C", "traffic=a=1")
    assert result.exit_code == 0, result.exception
    assert "Endpoint e is created" in result.output
    assert asked == [("e", {"traffic": "a=1"})]


@pytest.mark.parametrize(("declarations", "taken"), [(["--endpoint"], "endpoint"), (["--endpoint", "name"], "name")])
def test_a_create_endpoint_that_works_stays_as_it_is(declarations, taken):
    @click.group
    def group():
        pass

    def create(**given):
        click.echo(given)

    functions = {"name": lambda name: create(name=name), "endpoint": lambda endpoint: create(endpoint=endpoint)}
    group.command("create-endpoint")(click.option(*declarations)(functions[taken]))
    for name in ("predict", "explain"):
        group.command(name)(lambda: None)

    repair_deployment_commands(SimpleNamespace(commands=group))

    result = CliRunner().invoke(group, ["create-endpoint", "--endpoint", "e"])
    assert result.output == f"{{'{taken}': 'e'}}\n", result.exception


@pytest.fixture
def stock_read_json():
    """Of pandas, which is there again whatever a command has come to."""
    stock = pandas.read_json
    yield stock
    assert pandas.read_json is stock


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize("target", ["local", "local:/state"])
@pytest.mark.parametrize(
    "payload",
    [{"prompt": "hi"}, {"prompt": "hi", "max_tokens": 3}, {"inputs": ["a", "b"], "params": {"max_tokens": 3}}],
)
def test_json_that_pandas_refuses_reaches_our_targets(asked, stock_read_json, verb, target, payload, tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(payload))
    result = deployments(verb, "-t", target, "--name", "x", "-I", path)
    assert result.exit_code == 0, result.exception
    (frame,) = asked
    assert frame.to_dict("records") == [payload]


def test_a_file_for_another_target_is_read_by_pandas_itself(asked, stock_read_json, tmp_path):
    path = tmp_path / "request.json"
    path.write_text('{"prompt": "hi"}')
    result = deployments("predict", "-t", "other", "--name", "x", "-I", path)
    assert (result.exit_code, asked) == (1, [])
    with pytest.raises(ValueError, match="scalar values") as expected:
        stock_read_json(path)
    assert str(result.exception) == str(expected.value)


def test_a_file_that_is_not_there_is_told_in_one_line(asked, stock_read_json, tmp_path):
    result = deployments("predict", "-t", "local", "--name", "x", "-I", tmp_path / "none.json")
    assert (result.exit_code, result.output) == (1, f"Error: -I {tmp_path / 'none.json'}: No such file or directory\n")
    assert asked == []


def test_evaluations_of_others_stay_as_they_are_where_ours_never_ran(tmp_path):
    """Nothing of the evaluator is loaded for runs that have no table of its."""
    code = """
        import mlflow, pandas, sys
        from mlflow.models.evaluation.default_evaluator import BuiltInEvaluator
        mlflow.models.evaluate(
            data=pandas.DataFrame({"a": ["x"]}), predictions="a", model_type=None, evaluators="default",
            extra_metrics=[mlflow.metrics.ari_grade_level()],
        )
        print(hasattr(BuiltInEvaluator.log_eval_table, "_mlflow_llm_plugins"))
        print([name for name in sys.modules if name.startswith("mlflow_llm_plugins.evaluation.results")])
    """
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert run(code, tmp_path, MLFLOW_TRACKING_URI=store).split() == ["True", "[]"]
    off = run(code, tmp_path, MLFLOW_TRACKING_URI=store, **{SWITCH: "0"})
    assert off.split() == ["False", "[]"]


def test_the_default_evaluator_gets_the_list_itself_where_ours_takes_no_part():
    class DefaultEvaluator:
        def _evaluate(self, model, extra_metrics, custom_artifacts=None, **kwargs):
            return extra_metrics, custom_artifacts, kwargs

    module = SimpleNamespace(DefaultEvaluator=DefaultEvaluator)
    keep_metrics_whole(module)
    keep_metrics_whole(module)
    metrics = [mlflow.metrics.latency()]
    given, *others = DefaultEvaluator()._evaluate(None, metrics, "artifacts", more=1)
    assert given is metrics
    assert others == ["artifacts", {"more": 1}]

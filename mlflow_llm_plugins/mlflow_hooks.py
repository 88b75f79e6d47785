"""The plug `mlflow.run_context_provider: llm-hooks`, and the only file that changes what MLflow does.

`import mlflow` creates the provider, before MLflow's own modules that are changed here exist; so each change waits
for its module to be imported. A change that fails leaves MLflow as it is, with one warning.
`MLFLOW_LLM_EXTEND_STOCK=0` switches all of them off. To add one: a function and a row in `PATCHES`.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import logging
import os
import posixpath
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_logger = logging.getLogger(__name__)

SWITCH = "MLFLOW_LLM_EXTEND_STOCK"
_FLAVOR = "mlflow_llm_plugins.quantized_llm"
_MARK = "_mlflow_llm_plugins"  # of what is patched already
_PYFUNC = f"{_FLAVOR}.pyfunc"
_TARGET = "local"  # of our deployments
_TABLES_TAG = "llm.eval_results_table"  # of runs that have a results table of ours

_SERVED = "__pyfunc_model_path__"  # set by MLflow in the process of a server
_KEYS = "MLFLOW_LLM_API_KEY"
_KEY_NAMES = (_KEYS, f"{_KEYS}_FILE")
_WORKERS = "MLFLOW_MODELS_WORKERS"

Patch = Callable[[Any], None]


class HooksProvider:
    """A run-context provider without tags: MLflow creates it early, which is all that is wanted of it."""

    def __init__(self) -> None:
        """Have every patch made as soon as its module is imported."""
        if os.environ.get(SWITCH, "").strip().lower() not in {"0", "false", "off", "no"}:
            watch_imports(PATCHES)
        elif _SERVED in os.environ and any(name.startswith(_KEYS) for name in os.environ):
            _logger.warning(
                "NO API KEY IS ASKED FOR, though one is set: %s=0 leaves MLflow's server as it is.", SWITCH
            )

    def in_context(self) -> bool:
        """Never: no run gets tags from it."""
        return False

    def tags(self) -> dict[str, str]:
        """None."""
        return {}


def watch_imports(patches: dict[str, Patch]) -> None:
    """Patch modules when they are imported; those that are imported already, at once. Once in a process."""
    if any(isinstance(finder, _PatchingFinder) for finder in sys.meta_path):
        return
    for name in [name for name in patches if name in sys.modules]:
        _apply(patches[name], sys.modules[name])
    waiting = {name: patch for name, patch in patches.items() if name not in sys.modules}
    sys.meta_path.insert(0, _PatchingFinder(waiting))


class _PatchingFinder(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and patches them once they are executed.

    MLflow's own import hooks do the same by `load_module`, which Python is about to remove.
    """

    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._patches:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _executed_then_patched(  # type: ignore[method-assign,assignment]
                spec.loader.exec_module, self._patches[fullname]
            )
        return spec


def _executed_then_patched(execute: Callable[[ModuleType], None], patch: Patch) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        execute(module)
        _apply(patch, module)

    return exec_module


def _apply(patch: Patch, module: ModuleType) -> None:
    try:
        patch(module)
    except Exception:  # whatever is different in another MLflow, its commands go on without us
        if _SERVED in os.environ and any(name.startswith(_KEYS) for name in os.environ):
            raise  # but no server that was to ask for keys
        _logger.warning("MLflow's %s stays as it is: it could not be extended.", module.__name__, exc_info=True)


def serve_language_models(scoring_server: Any) -> None:
    """Extend the scoring server's app by our routes, where the model that it serves is ours."""
    stock = scoring_server.init
    if hasattr(stock, _MARK):
        return

    @functools.wraps(stock)
    def init(model: Any, *args: Any, **kwargs: Any) -> Any:
        app = stock(model, *args, **kwargs)
        pyfunc = sys.modules.get(_PYFUNC)  # imported by the loader of our flavor, by nothing else in a server
        served = getattr(model, "_model_impl", None)
        if pyfunc is not None and isinstance(served, pyfunc.QuantizedLLMPyfunc):
            _extend(app, model, served)
        return app

    setattr(init, _MARK, True)
    scoring_server.init = init


def _extend(app: Any, model: Any, served: Any) -> None:
    from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
    from mlflow_llm_plugins.serving import extend, guards_are_wanted

    try:
        extend(app, model, served)
    except (InvalidInputError, MissingDependencyError):
        raise  # of what the user has set: a limit or key that is asked for must hold, or nothing may be served
    except Exception:
        if guards_are_wanted():
            raise  # a server that was to ask for keys, or to keep limits, must not run without
        _logger.warning("MLflow's scoring server is served without the routes for language models.", exc_info=True)


def read_only_mlmodel(registry: Any) -> None:
    """Have `get_flavor_backend` read a model of ours without copying its weights, which it needs only MLmodel of."""
    stock = registry.get_flavor_backend
    backend_of = registry._get_flavor_backend_for_local_model
    if hasattr(stock, _MARK):
        return

    @functools.wraps(stock)
    def get_flavor_backend(model_uri: str, *args: Any, **kwargs: Any) -> Any:
        try:
            model = None if args else _own_model(model_uri)
            backend = None if model is None else backend_of(model, **kwargs)[1]
        except Exception as error:  # an unknown model, a store out of reach: MLflow says it better
            _logger.debug("MLflow looks at %r itself: %r", model_uri, error)
            backend = None
        return stock(model_uri, *args, **kwargs) if backend is None else backend

    setattr(get_flavor_backend, _MARK, True)
    registry.get_flavor_backend = get_flavor_backend


def _own_model(model_uri: str) -> Any | None:
    """The `Model` of an artifact of our flavor; None of any other."""
    from mlflow.models import Model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracking.artifact_utils import _get_root_uri_and_artifact_path

    if not model_uri:
        return None
    if os.path.isfile(os.path.join(model_uri, "MLmodel")):
        model = Model.load(model_uri)
    else:
        root, path = _get_root_uri_and_artifact_path(model_uri)
        with tempfile.TemporaryDirectory() as folder:
            repository = get_artifact_repository(root)
            model = Model.load(repository.download_artifacts(posixpath.join(path, "MLmodel"), dst_path=folder))
    return model if _is_ours(model) else None


def _is_ours(model: Any) -> bool:
    """Whether a `Model` is of our flavor."""
    return bool(model.flavors.get("python_function", {}).get("loader_module") == _FLAVOR)


def one_worker_in_containers(container: Any) -> None:
    """Have a container serve a model of ours by one process: MLflow's one a processor hold a copy of it each.

    Its port is published, while the server behind nginx listens on the loopback interface: that no key is set is said
    here.
    """
    stock = container._serve_pyfunc
    if hasattr(stock, _MARK):
        return

    @functools.wraps(stock)
    def serve_pyfunc(model: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_ours(model):
            return stock(model, *args, **kwargs)
        shown = logging.getLogger(container.__name__)  # as what MLflow says of the container, unlike our own
        if not any(os.environ.get(name) for name in _KEY_NAMES):
            shown.warning(
                "ANYBODY WHO REACHES THE CONTAINER'S PORT CAN USE THE MODEL: no API key is set. Set %s to a file "
                "with keys, one a line.",
                _KEY_NAMES[1],
            )
        if os.environ.get(_WORKERS):
            return stock(model, *args, **kwargs)
        shown.info("One worker serves the model. %s=N asks for N, each with a copy of it.", _WORKERS)
        os.environ[_WORKERS] = "1"
        try:
            return stock(model, *args, **kwargs)
        finally:
            del os.environ[_WORKERS]

    setattr(serve_pyfunc, _MARK, True)
    container._serve_pyfunc = serve_pyfunc


def repair_deployment_commands(cli: Any) -> None:
    """Have `create-endpoint` work, and any JSON reach our targets."""
    commands = cli.commands.commands
    _take_the_name(commands["create-endpoint"])
    for name in ("predict", "explain"):
        commands[name].callback = _reading_any_json(commands[name].callback)


def _take_the_name(command: Any) -> None:
    """Its option sets `endpoint` where its function takes `name`: a TypeError in every MLflow up to 3.18."""
    options = {option.name: option for option in command.params}
    taken = inspect.signature(command.callback).parameters
    if "name" in taken.keys() - options and "endpoint" in options.keys() - taken:
        options["endpoint"].name = "name"


def _reading_any_json(stock: Any) -> Any:
    """The command with pandas kinder to its file, where the target is ours: {"prompt": "hi"} is no table for it."""
    if hasattr(stock, _MARK):
        return stock

    @functools.wraps(stock)
    def command(*args: Any, **kwargs: Any) -> Any:
        if str(kwargs.get("target")).partition(":")[0] != _TARGET:
            return stock(*args, **kwargs)
        import pandas

        from mlflow_llm_plugins.deployments.cli_input import lenient_read_json

        read_json = pandas.read_json
        pandas.read_json = lenient_read_json(read_json)
        try:
            return stock(*args, **kwargs)
        finally:
            pandas.read_json = read_json

    setattr(command, _MARK, True)
    return command


def keep_tables_apart(evaluators: Any) -> None:
    """Have our table of an earlier evaluation leave the file that MLflow's own evaluators add theirs to."""
    stock = evaluators.BuiltInEvaluator.log_eval_table
    if hasattr(stock, _MARK):
        return

    @functools.wraps(stock)
    def log_eval_table(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            _make_room(self)
        except Exception:
            _logger.debug("Nobody knows whether the run has a table of ours.", exc_info=True)
        return stock(self, *args, **kwargs)

    setattr(log_eval_table, _MARK, True)
    evaluators.BuiltInEvaluator.log_eval_table = log_eval_table


def _make_room(evaluator: Any) -> None:
    """Where the evaluator is about to log a table, and the run's tag says that it has one of ours."""
    values = evaluator.metrics_values.values()
    if all(value.scores is None and value.justifications is None for value in values):
        return
    if _TABLES_TAG in evaluator.client.get_run(evaluator.run_id).data.tags:
        from mlflow_llm_plugins.evaluation.results.artifact_file import make_room

        prefix = evaluator.evaluator_config.get("metric_prefix")
        make_room(evaluator.run_id, prefix if isinstance(prefix, str) else "")


def keep_metrics_whole(default: Any) -> None:
    """Have the default evaluator take `latency` out of a list of its own, where ours is to get the same list."""
    stock = default.DefaultEvaluator._evaluate
    if hasattr(stock, _MARK):
        return

    @functools.wraps(stock)
    def evaluate(self: Any, model: Any, extra_metrics: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            extra_metrics = _unshared(extra_metrics)
        except Exception:
            _logger.debug("Nobody knows whether the evaluator 'llm' takes part.", exc_info=True)
        return stock(self, model, extra_metrics, *args, **kwargs)

    setattr(evaluate, _MARK, True)
    default.DefaultEvaluator._evaluate = evaluate


def _unshared(metrics: Any) -> Any:
    """A copy of the list in an evaluation in which ours takes part, else the list itself."""
    from mlflow_llm_plugins.evaluation.invitation import takes_part

    return list(metrics) if takes_part() else metrics


PATCHES: dict[str, Patch] = {
    "mlflow.pyfunc.scoring_server": serve_language_models,
    "mlflow.models.flavor_backend_registry": read_only_mlmodel,
    "mlflow.models.container": one_worker_in_containers,
    "mlflow.deployments.cli": repair_deployment_commands,
    "mlflow.models.evaluation.default_evaluator": keep_tables_apart,
    "mlflow.models.evaluation.evaluators.default": keep_metrics_whole,
}

"""A module of the library `evaluate`: where its script is, and loading it when it is first asked for, once.

`evaluate.load` alone would run `./rouge/rouge.py` of the working directory for the name "rouge", and wait minutes for
a Hub that drops packets (evaluate 0.4.6).
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.packages import require

PROBE_TIMEOUT_S = 10
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OFFLINE = ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_SEED = 0  # for scripts that resample; `evaluate` restores numpy's and torch's own state


@dataclass(frozen=True, slots=True)
class Script:
    """Where a metric comes from: the absolute path of a file, or an id on the Hub."""

    name: str  # of the metric, in the characters that MLflow allows
    path: str | None = None
    hub_id: str | None = None  # owner/name

    @property
    def source(self) -> str:
        """The path or the id."""
        return self.path or self.hub_id or self.name


def find_script(name: str) -> Script:
    """Tell paths from names: only what has a separator or ends in .py, and exists, is a path.

    Args:
        name: "meteor", "owner/name" on the Hub, "./dir/met.py", or "./dir" which holds "dir.py".

    Raises:
        InvalidInputError: It is neither an existing script nor what the Hub could have.
    """
    if isinstance(name, str) and (os.sep in name or "/" in name or name.endswith(".py")):
        script = Path(name).expanduser().absolute()
        if script.is_dir():
            script = script / f"{script.name}.py"
        if script.is_file():
            return Script(_sanitised(script.stem), path=str(script))
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or name.endswith(".py"):
        raise InvalidInputError(
            f"evaluate:{name}: there is no such script. Give the path of one, as in 'evaluate:./dir/met.py', "
            "or the name of a metric on the Hugging Face Hub, as in 'evaluate:meteor'."
        )
    return Script(_sanitised(name.rpartition("/")[2]), hub_id=name if "/" in name else f"evaluate-metric/{name}")


class LazyModule:
    """The loaded module, used by one thread at a time; after a failed computation it is loaded anew."""

    def __init__(self, script: Script, config_name: str | None) -> None:
        """Load nothing yet.

        Raises:
            MissingDependencyError: `evaluate` is not installed.
        """
        if importlib.util.find_spec("evaluate") is None:
            require("evaluate")  # raises; importing takes seconds, so not where it is there
        self._script = script
        self._config_name = config_name
        self._module: Any = None
        self._lock = threading.RLock()

    def use(self, work: Callable[[Any], Any]) -> Any:
        """What `work` makes of the module.

        Raises:
            InvalidInputError: The script cannot be had, or fails.
            MissingDependencyError: The script imports a package that is not installed.
        """
        with self._lock:
            if self._module is None:
                self._module = self._guarded("cannot be loaded", self._load)
            module = self._module
            try:
                return self._guarded("failed on these rows", lambda: work(module))
            except BaseException:
                self._module = None  # it may hold rows of the failed computation
                raise

    def _guarded(self, what: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except (InvalidInputError, MissingDependencyError):
            raise
        except ImportError as error:
            raise MissingDependencyError(f"evaluate:{self._script.name}: {error}") from error
        except Exception as error:  # of a script by someone else; its message may repeat rows
            raise InvalidInputError(
                f"evaluate:{self._script.name} {what}: {type(error).__name__}.{_hint(error)} Try it alone: "
                f"evaluate.load({self._script.source!r}).compute(predictions=[...], references=[...])."
            ) from error

    def _load(self) -> Any:
        evaluate = require("evaluate")
        settings = {
            "config_name": self._config_name,
            "keep_in_memory": True,  # rows do not go to a cache on disk
            "experiment_id": uuid.uuid4().hex,
            "seed": _SEED,
        }
        if self._script.path is not None:
            return evaluate.load(self._script.path, **settings)
        hub_id = self._script.hub_id or ""
        unreachable = why_unreachable(evaluate.config.HF_ENDPOINT)
        if unreachable is None:
            return evaluate.load(_without_local_twin(hub_id), **settings)
        return _from_cache(evaluate, hub_id, settings, unreachable)


def why_unreachable(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Why the Hub cannot be asked, or None; answers within `timeout_s` seconds.

    In a thread, because looking up a name has no time limit of its own.
    """
    switched_off = [name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if switched_off:
        return f"{switched_off[0]} is set"
    failures = [f"{endpoint} did not answer within {timeout_s} s"]
    probe = threading.Thread(target=_probe, args=(endpoint, timeout_s, failures), name="hub-probe", daemon=True)
    probe.start()
    probe.join(timeout_s)
    return failures[-1] if failures else None


def _probe(endpoint: str, timeout_s: float, failures: list[str]) -> None:
    requests = require("requests")
    try:
        requests.head(endpoint, timeout=timeout_s)  # any answer will do; proxies as `evaluate` uses them
        failures.clear()
    except requests.RequestException as error:
        failures.append(f"{endpoint} cannot be reached ({type(error).__name__})")


def _hint(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return " The folder that HF_HOME names must be writable, since scripts are copied there."
    return " It may not be on the Hub." if isinstance(error, FileNotFoundError) else ""


def _without_local_twin(hub_id: str) -> str:
    """The id, unless `evaluate` would run a script of the working directory for it."""
    twin = Path(hub_id) / f"{hub_id.rpartition('/')[2]}.py"
    if twin.is_file():
        raise InvalidInputError(
            f"'evaluate' would run {str(twin)!r} of the working directory instead of {hub_id!r} on the Hub; "
            f"if that is meant, give its path: 'evaluate:./{twin}'."
        )
    return hub_id


def _from_cache(evaluate: Any, hub_id: str, settings: dict[str, Any], unreachable: str) -> Any:
    """The module as it was last downloaded; `evaluate.load` would ask the network first, several times."""
    loading = require("evaluate.loading", "evaluate")
    try:
        found = loading.CachedEvaluationModuleFactory(hub_id.replace("/", "--")).get_module()
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"evaluate:{hub_id.removeprefix('evaluate-metric/')} is a script on the Hugging Face Hub, and "
            f"{unreachable}. Run it once where the Hub can be reached, or give the path of a local script: "
            "'evaluate:./dir/met.py'."
        ) from error
    module = loading.import_main_class(found.module_path)(hash=found.hash, **settings)
    module.download_and_prepare()
    return module


def _sanitised(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)

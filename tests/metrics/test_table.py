"""The table of metrics: each is importable by its name, whatever was imported before."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import mlflow_llm_plugins.metrics as metrics
from mlflow_llm_plugins.metrics import METRICS


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_is_a_documented_function_under_its_name(name):
    function = getattr(metrics, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert inspect.getdoc(function)


def test_no_module_hides_a_metric():
    modules = {module.name for module in pkgutil.iter_modules(metrics.__path__)}
    assert not modules & set(METRICS)


def test_the_names_are_listed():
    assert set(METRICS) <= set(dir(metrics))


def test_importing_the_package_loads_no_library_of_a_metric():
    code = (
        "import sys, mlflow_llm_plugins.metrics, mlflow_llm_plugins.evaluation;"
        "print([n for n in ('mlflow', 'torch', 'textstat', 'nltk', 'evaluate', 'sacrebleu') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_name_is_an_import_error():
    with pytest.raises(ImportError, match="rouge9"):
        exec("from mlflow_llm_plugins.metrics import rouge9", {})

"""What supervisors inherit: all that is named relative to the command's directory stays the same."""

from __future__ import annotations

import os

import mlflow
import pytest

from mlflow_llm_plugins.deployments.local.launch import server_environ


@pytest.fixture
def directory(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("file:./mlruns", "file://{here}/mlruns"),
        ("file:///abs/mlruns", "file:///abs/mlruns"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_stores_are_named_absolutely(directory, uri, expected):
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    found = server_environ({"A": "1"})
    assert found["MLFLOW_TRACKING_URI"] == expected.format(here=directory)
    assert found["MLFLOW_REGISTRY_URI"] == expected.format(here=directory)
    assert found["A"] == "1"


def test_paths_of_python_are_absolute(directory):
    found = server_environ({"PYTHONPATH": os.pathsep.join(["src", "/lib"])})
    assert found["PYTHONPATH"] == os.pathsep.join([str(directory / "src"), "/lib"])

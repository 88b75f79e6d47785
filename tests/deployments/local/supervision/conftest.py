"""A deployment of fake servers, for the tests of supervisors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.local.records import ModelSource
from tests.deployments.local.supervised import Supervised


@pytest.fixture
def chat(tmp_path: Path, model: ModelSource) -> Iterator[Supervised]:
    """Not begun yet; nothing of it is left after the test."""
    deployment = Supervised(tmp_path, model)
    yield deployment
    deployment.close()

"""Torch uses the CPUs that were granted, or what it is told."""

import pytest
import torch

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation.cpu.threads import set_threads
from mlflow_llm_plugins.hardware import granted_cpus


@pytest.fixture(autouse=True)
def same_threads_afterwards(monkeypatch):
    monkeypatch.delenv("MLFLOW_LLM_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_without_a_wish_the_granted_cpus_are_used():
    assert set_threads(None) == torch.get_num_threads() == granted_cpus()


def test_the_environment_decides_unless_the_setting_does(monkeypatch):
    monkeypatch.setenv("MLFLOW_LLM_NUM_THREADS", "3")
    assert set_threads(None) == torch.get_num_threads() == 3
    assert set_threads(1) == torch.get_num_threads() == 1


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("MLFLOW_LLM_NUM_THREADS", value)
    with pytest.raises(InvalidInputError) as error:
        set_threads(None)
    assert str(error.value) == f"MLFLOW_LLM_NUM_THREADS must be a whole number of at least 1, got {value!r}."

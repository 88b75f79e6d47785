"""A tiny language model that was logged as users log one, and questions to it."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest

from mlflow_llm_plugins import quantized_llm

QUESTIONS = ["What is a loop?", "What is a class?", "What is a list?", "What is a module?", "What is a string?"]


@pytest.fixture(scope="session")
def chat_artifact(tiny_llama, tmp_path_factory):
    """The folder of a chat model with short answers."""
    path = tmp_path_factory.mktemp("chat") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), engine_config={"max_new_tokens": 8}, bundle_plugin=False)
    return path


@pytest.fixture(scope="module")
def chat_model(chat_artifact):
    """The same, loaded."""
    model = mlflow.pyfunc.load_model(str(chat_artifact))
    yield model
    model.get_raw_model().close()


@pytest.fixture
def questions():
    """Rows with a question, a reference and something that nobody asks for."""
    return pd.DataFrame({"question": QUESTIONS, "truth": [f"It is {i}." for i in range(5)], "number": range(5)})

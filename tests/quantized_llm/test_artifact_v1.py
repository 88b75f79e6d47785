"""An artifact of format version 1, written once and kept: every later version must load it."""

from pathlib import Path

import mlflow
import pytest

from mlflow_llm_plugins import quantized_llm

ANSWER = "\ufffd)\ufffd\x03\x16d"
V1 = str(Path(__file__).parents[1] / "artifacts" / "v1")


def test_the_first_format_still_loads_as_a_model():
    model = quantized_llm.load_model(V1, return_type="model")
    assert model.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert model.get_memory_footprint() == 202_048


@pytest.mark.parametrize("override", [{}, {"engine": "generate"}])
def test_the_first_format_still_answers_through_pyfunc(override):
    model = mlflow.pyfunc.load_model(V1, model_config=override)
    try:
        answer = model.predict({"messages": [{"role": "user", "content": "Hello"}]})
        assert answer["choices"][0]["message"]["content"] == ANSWER
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (9, 8)
    finally:
        model.get_raw_model().close()

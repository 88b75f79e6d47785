"""bitsandbytes' 8-bit layers speak once, not at every matrix product."""

import logging

import pytest

from mlflow_llm_plugins import quantized_llm


@pytest.mark.parametrize("return_type", ["pipeline", "model"])
def test_an_int8_model_says_once_how_it_casts_its_inputs(tiny_llama, tmp_path, caplog, return_type):
    quantized_llm.save_model(str(tiny_llama), tmp_path / "model", quantization="int8")
    loaded = quantized_llm.load_model(str(tmp_path / "model"), return_type=return_type)
    model = getattr(loaded, "model", loaded) if return_type == "pipeline" else loaded
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            model(input_ids=model.dummy_inputs["input_ids"] % 100)
    assert sum("inputs will be cast" in record.getMessage() for record in caplog.records) <= 1

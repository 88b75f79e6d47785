"""Weights on disk: who may read them, and what quantizing must have done."""

import stat

import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins import quantized_llm
from tests.models import byte_tokenizer, random_model, save_checkpoint


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_weights_are_as_readable_as_the_files_beside_them(tmp_path, quantization):
    model = {"model": random_model("llama"), "tokenizer": byte_tokenizer()}
    quantized_llm.save_model(model, tmp_path / "model", quantization=quantization)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "model" / "model").iterdir()}
    assert len(modes) == 1


def test_a_quantization_that_changes_no_layer_is_refused(tmp_path):
    save_checkpoint(tmp_path / "falcon", random_model("falcon"), byte_tokenizer())
    with pytest.raises(MlflowException) as error:
        quantized_llm.save_model(str(tmp_path / "falcon"), tmp_path / "model", quantization="nf4")
    assert error.value.message == (
        "quantization='nf4' changes no layer of FalconForCausalLM: bitsandbytes replaces torch's own linear layers, "
        "and it has none. Log it as it is."
    )
    assert not list((tmp_path / "model").iterdir())

"""The flavor `quantized_llm`: open language models, quantized or not, as MLflow models.

    info = quantized_llm.log_model("org/model", name="chat", quantization="nf4")
    mlflow.pyfunc.load_model(info.model_uri).predict("Hello")

`save` and `log` write artifacts: `source` understands what was given, `plan` checks it and writes the model
folder, `record` is what MLmodel says. `load` reads them: natively, or as an engine behind `pyfunc`.
To add a quantization method: a row in `quantization.QUANTIZATION_CONFIGS`.
"""

from mlflow_llm_plugins.quantized_llm.load import _load_pyfunc, load_model
from mlflow_llm_plugins.quantized_llm.log import log_model
from mlflow_llm_plugins.quantized_llm.record import FLAVOR_NAME
from mlflow_llm_plugins.quantized_llm.save import save_model

__all__ = ["FLAVOR_NAME", "_load_pyfunc", "load_model", "log_model", "save_model"]

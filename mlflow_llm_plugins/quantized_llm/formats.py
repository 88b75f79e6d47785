"""The forms in which a model is loaded: how each is read, and what it is to those who load it natively."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol

from mlflow_llm_plugins.generation.engines import ModelFormat
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.components import Components
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.openvino_model import load_openvino
from mlflow_llm_plugins.quantized_llm.torch_model import load_torch

ReturnType = Literal["pipeline", "model", "components"]


class Loader(Protocol):
    """Reads the model of an artifact."""

    def __call__(self, artifact: Artifact, config: ModelConfig, *, trust_remote_code: bool) -> Components:
        """Load it; raises an LLMError where that cannot be done."""


LOADERS: Mapping[ModelFormat, Loader] = MappingProxyType({"torch": load_torch, "openvino": load_openvino})


def _torch_pipeline(components: Components) -> Any:
    from transformers import pipeline

    # A device named here would move the model: it is where it belongs, and bitsandbytes models must not be moved.
    placed = {} if hasattr(components.model, "hf_device_map") else {"device": components.model.device}
    return pipeline("text-generation", model=components.model, tokenizer=components.tokenizer, **placed)


def _genai_pipeline(components: Components) -> Any:
    with telemetry_refused():
        from openvino_genai import LLMPipeline

    with signal_stack_kept():
        return LLMPipeline(str(components.model), "CPU")


def _openvino_model(components: Components) -> Any:
    with telemetry_refused():
        from openvino import Core

    return Core().read_model(components.model / MODEL_FILE)


def _genai_components(components: Components) -> dict[str, Any]:
    pipeline = _genai_pipeline(components)
    return {"pipeline": pipeline, "tokenizer": pipeline.get_tokenizer()}


RETURNED: Mapping[ModelFormat, Mapping[ReturnType, Callable[[Components], Any]]] = MappingProxyType(
    {
        "torch": {
            "pipeline": _torch_pipeline,
            "model": lambda components: components.model,
            "components": lambda components: {"model": components.model, "tokenizer": components.tokenizer},
        },
        "openvino": {
            "pipeline": _genai_pipeline,
            "model": _openvino_model,
            "components": _genai_components,
        },
    }
)

"""Loading: natively as objects of the model's library, and through MLflow's pyfunc as an engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mlflow_llm_plugins.errors import InvalidInputError, mlflow_errors
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.decision import decide
from mlflow_llm_plugins.quantized_llm.formats import LOADERS, RETURNED, ReturnType
from mlflow_llm_plugins.quantized_llm.quantization import as_plain

SERVER_VARIABLE = "__pyfunc_model_path__"  # set by `mlflow models serve` in the server's process
TIMEOUT_MARGIN_S = 2.0  # a generation ends this long before the server gives up on it


def load_model(
    model_uri: str,
    return_type: ReturnType = "pipeline",
    device_map: str | int | dict[str, str | int] | None = None,
    dtype: Any = None,
    attn_implementation: str | None = None,
    max_memory: Mapping[str | int, str | int] | None = None,
    quantization: Any = None,
    engine: str | None = None,
    trust_remote_code: bool = False,
    dst_path: str | None = None,
) -> Any:
    """Load a model as transformers objects; what is None here is taken from the artifact's `model_config`.

    An OpenVINO model is loaded as objects of OpenVINO.

    Args:
        model_uri: Any MLflow URI, for example "models:/chat@champion".
        return_type: "pipeline" (text-generation), "model", or "components": a dict of "model" and "tokenizer". Of an
            OpenVINO model: its `openvino_genai.LLMPipeline`, its `openvino.Model`, or a dict of "pipeline" and
            "tokenizer".
        device_map: As transformers takes it; None is the first accelerator, else the CPU.
        dtype: Of the weights that are not quantized, for example "bfloat16"; of all with quantization="none".
            Weights that were saved quantized keep the types they were saved with, with a warning.
        attn_implementation: As transformers takes it.
        max_memory: By device, for device_map="auto".
        quantization: As for `log_model`. None applies what is recorded; "none" switches it off: a reference is
            loaded as it is, weights that were saved quantized are expanded and keep their rounding.
        engine: "openvino" exports ordinary weights, once, and loads that; "auto" chooses.
        trust_remote_code: Run the Python code that came with the model; needed if it was logged with it.
        dst_path: Where to download to; must exist.

    Raises:
        MlflowException: Names the value that cannot be used, what is allowed and what to do.
    """
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    with mlflow_errors():
        if return_type not in get_args(ReturnType):
            allowed = ", ".join(get_args(ReturnType))
            hint = did_you_mean(return_type, get_args(ReturnType))
            raise InvalidInputError(f"Unknown return_type {return_type!r}.{hint} Allowed: {allowed}.")
        path = Path(_download_artifact_from_uri(artifact_uri=model_uri, output_path=dst_path))
        artifact = Artifact.open(path)
        config = artifact.config.overridden(
            device_map=device_map,
            dtype=dtype,
            attn_implementation=attn_implementation,
            max_memory=max_memory,
            quantization=as_plain(quantization),
            engine=engine,
        )
        _import_code(artifact)
        decided = decide(artifact, config, trust_remote_code=trust_remote_code)
        components = LOADERS[decided.model_format](artifact, decided.config, trust_remote_code=trust_remote_code)
        return RETURNED[decided.model_format][return_type](components)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Any:
    """MLflow's entry: load the artifact and open its engine.

    Args:
        path: The artifact's folder.
        model_config: The artifact's, with MLflow's overrides in it.
    """
    with mlflow_errors():
        from mlflow_llm_plugins.generation import open_engine
        from mlflow_llm_plugins.quantized_llm.pyfunc import QuantizedLLMPyfunc
        from mlflow_llm_plugins.quantized_llm.signature import frame_is_request

        artifact = Artifact.open(Path(path))
        config = _with_server_timeout(ModelConfig.from_artifact(model_config))
        # Whoever runs an artifact through pyfunc runs its code: MLflow has its own switch against that.
        record = artifact.record
        decided = decide(artifact, config, trust_remote_code=record.trust_remote_code)
        load = LOADERS[decided.model_format]
        components = load(artifact, decided.config, trust_remote_code=record.trust_remote_code)
        engine = open_engine(components.model, components.tokenizer, config.engine_settings(), decided.engine)
        return QuantizedLLMPyfunc(
            engine,
            model_name=record.model_name,
            task=record.task,
            generation_config=artifact.generation_config,
            prompt_template=record.prompt_template,
            max_in_flight=2 * config.max_requests_per_batch,
            frame_is_request=frame_is_request(artifact.signature),
            decision_temperatures=artifact.decision_temperatures,
        )


def _import_code(artifact: Artifact) -> None:
    from mlflow.utils.model_utils import _add_code_from_conf_to_system_path

    if artifact.record.code:
        _add_code_from_conf_to_system_path(str(artifact.path), {"code": artifact.record.code})


def _with_server_timeout(config: ModelConfig) -> ModelConfig:
    """In the scoring server, end requests before it answers 504: it never stops the work itself."""
    if config.request_timeout_s is not None or SERVER_VARIABLE not in os.environ:
        return config
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

    timeout = float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
    return config.overridden(request_timeout_s=max(timeout - TIMEOUT_MARGIN_S, timeout / 2))

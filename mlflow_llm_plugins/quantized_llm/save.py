"""Saving: everything is checked first, then the artifact is written from what the checks found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow.models import Model

from mlflow_llm_plugins.errors import mlflow_errors
from mlflow_llm_plugins.generation.engines import ENGINES
from mlflow_llm_plugins.quantized_llm.bundle import wheel_to_bundle
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.handover import hand_over_weights
from mlflow_llm_plugins.quantized_llm.plan import plan_save
from mlflow_llm_plugins.quantized_llm.record import FLAVOR_NAME, MODEL_FOLDER, FlavorRecord
from mlflow_llm_plugins.quantized_llm.requirements import (
    CONDA_FILE,
    PYTHON_ENV_FILE,
    default_requirements,
    extra_of,
    write_environment,
)
from mlflow_llm_plugins.quantized_llm.signature import resolve_signature

LOADER_MODULE = "mlflow_llm_plugins.quantized_llm"


def save_model(
    model: Any,
    path: str | Path,
    *,
    tokenizer: Any = None,
    quantization: Any = None,
    revision: str | None = None,
    save_pretrained: bool = True,
    task: str | None = None,
    chat_template: str | None = None,
    prompt_template: str | None = None,
    generation_config: Any = None,
    engine_config: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    bundle_plugin: bool | Literal["auto"] = "auto",
    model_config: Mapping[str, Any] | None = None,
    inference_config: Mapping[str, Any] | None = None,
    mlflow_model: Model | None = None,
    signature: Any = None,
    input_example: Any = None,
    metadata: dict[str, Any] | None = None,
    code_paths: list[str] | None = None,
    pip_requirements: str | list[str] | None = None,
    extra_pip_requirements: str | list[str] | None = None,
    conda_env: str | dict[str, Any] | None = None,
    validate_serving_input: bool = False,
) -> None:
    """Save a causal language model as an MLflow model; the model that is passed is not changed.

    Args:
        model: A Hub id, a checkpoint directory, a transformers model, a text-generation pipeline, or
            {"model": model, "tokenizer": tokenizer}. Hub ids and directories are saved without loading them unless
            `quantization` asks for it. Only safetensors are read. Also a directory with an OpenVINO model
            (openvino_model.xml), which is saved as it is.
        path: A directory that is empty or does not exist.
        tokenizer: A fast tokenizer, a Hub id or a directory; None finds the model's own.
        quantization: None keeps the weights as they are; "nf4", "fp4", "int8"; "openvino-int8", "openvino-int4",
            "openvino-fp16", which export the model to OpenVINO; {"method": name, **settings}; any transformers
            quantization config as an object or dict; or "auto", a choice for this machine, which is told.
        revision: Branch, tag or commit of the Hub repository; its commit is recorded.
        save_pretrained: False saves a reference (Hub id and commit, or path) instead of the weights; the
            quantization is applied at each load.
        task: "llm/v1/chat" or "llm/v1/completions"; None is chat where the tokenizer has a chat template.
        chat_template: Jinja template to use instead of the tokenizer's.
        prompt_template: Text with "{prompt}" once, put around prompts of completions.
        generation_config: Request defaults: a GenerationConfig or a dict of its keys.
        engine_config: Keys of `ModelConfig`; each can be overridden at load and serve time. With "openvino" as
            "engine" the requirements have what exports the weights at the first load; with "auto" only torch, which
            runs them where OpenVINO is not installed.
        trust_remote_code: Run Python code of the checkpoint; needs a commit as `revision` for a Hub id.
        bundle_plugin: Whether the artifact carries a wheel of this package for its requirements to name. "auto": if
            what is installed did not come from an index, unless you give `pip_requirements` or `conda_env`.
        model_config: As `engine_config`, under MLflow's name.
        inference_config: Deprecated name of `model_config`.
        mlflow_model: The MLflow model that this flavor is added to.
        signature: None is the signature that keeps every payload intact.
        input_example: Stored with the model; the model is not run on it.
        metadata: Stored in MLmodel.
        code_paths: Python files and folders to store and to import from at load.
        pip_requirements: Instead of the computed requirements.
        extra_pip_requirements: Beside the computed requirements.
        conda_env: Instead of the computed environment.
        validate_serving_input: MLflow's own argument; serving is never tried out while saving.

    Raises:
        MlflowException: Names the value that cannot be used, what is allowed and what to do.
    """
    from mlflow.utils.environment import _validate_env_arguments
    from mlflow.utils.model_utils import _validate_and_copy_code_paths, _validate_and_prepare_target_save_path

    _validate_env_arguments(conda_env, pip_requirements, extra_pip_requirements)
    with mlflow_errors():
        ENGINES["transformers"].require_packages("Logging a quantized_llm model")
        environment_given = conda_env is not None or pip_requirements is not None
        wheel = wheel_to_bundle(bundle_plugin, environment_given=environment_given)
        resolved_signature = resolve_signature(signature)
        plan = plan_save(
            model,
            tokenizer=tokenizer,
            quantization=quantization,
            revision=revision,
            save_pretrained=save_pretrained,
            task=task,
            chat_template=chat_template,
            prompt_template=prompt_template,
            generation_config=generation_config,
            config=ModelConfig.at_log_time(engine_config, model_config, inference_config),
            trust_remote_code=trust_remote_code,
        )
    path = Path(path)
    mlflow_model = mlflow_model or Model()
    _validate_and_prepare_target_save_path(str(path))
    with mlflow_errors(), _emptied_on_failure(path):
        # Model.log hands over a folder that it copies to the artifact store and deletes.
        staged = mlflow_model.model_id is not None
        code = _validate_and_copy_code_paths(code_paths, str(path))
        record = plan.write(path / MODEL_FOLDER, staged=staged).model_copy(update={"code": code})
        config = plan.recorded_config(record)
        _describe(mlflow_model, path, record, config, resolved_signature, input_example, metadata)
        extra = extra_of(record.weights.format, record.quantization, config.engine)
        defaults = default_requirements(record, extra)
        write_environment(path, defaults, conda_env, pip_requirements, extra_pip_requirements, wheel, extra)
        if staged:
            hand_over_weights(path / MODEL_FOLDER, mlflow_model)


def _describe(
    mlflow_model: Model,
    path: Path,
    record: FlavorRecord,
    config: ModelConfig,
    signature: Any,
    input_example: Any,
    metadata: Mapping[str, Any] | None,
) -> None:
    """Fill in and write MLmodel."""
    from mlflow import pyfunc
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.models.utils import _save_example
    from mlflow.utils.file_utils import get_total_file_size

    mlflow_model.signature = signature
    mlflow_model.metadata = {**(mlflow_model.metadata or {}), **(metadata or {}), "task": record.task}
    _save_example(mlflow_model, input_example, str(path))
    mlflow_model.add_flavor(FLAVOR_NAME, **record.for_mlmodel())
    pyfunc.add_to_model(
        mlflow_model,
        loader_module=LOADER_MODULE,
        conda_env=CONDA_FILE,
        python_env=PYTHON_ENV_FILE,
        code=record.code,
        model_config=config.for_mlmodel(),
        streamable=True,
    )
    mlflow_model.model_size_bytes = get_total_file_size(path)
    mlflow_model.save(str(path / MLMODEL_FILE_NAME))


@contextmanager
def _emptied_on_failure(path: Path) -> Iterator[None]:
    """Leave the target as empty as it was, so that the call can be repeated."""
    try:
        yield
    except BaseException:
        for child in path.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        raise

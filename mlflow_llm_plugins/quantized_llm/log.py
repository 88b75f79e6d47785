"""Logging: `save_model` into a LoggedModel, with the facts to search it by."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal

import mlflow
from mlflow.models import Model
from mlflow.models.model import ModelInfo
from mlflow.tracking._model_registry import DEFAULT_AWAIT_MAX_SLEEP_SECONDS

from mlflow_llm_plugins.errors import InvalidInputError, mlflow_errors
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.record import FLAVOR_NAME, FlavorRecord

_logger = logging.getLogger(__name__)

FORBIDDEN_IN_NAMES = re.compile(r"""[/:.%"']+""")  # mlflow.utils.validation._validate_logged_model_name


def log_model(
    model: Any,
    name: str | None = None,
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
    artifact_path: str | None = None,
    registered_model_name: str | None = None,
    await_registration_for: int | None = DEFAULT_AWAIT_MAX_SLEEP_SECONDS,
    signature: Any = None,
    input_example: Any = None,
    pip_requirements: str | list[str] | None = None,
    extra_pip_requirements: str | list[str] | None = None,
    conda_env: str | dict[str, Any] | None = None,
    code_paths: list[str] | None = None,
    metadata: dict[str, Any] | None = None,
    prompts: list[Any] | None = None,
    params: dict[str, Any] | None = None,
    tags: dict[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    run_id: str | None = None,
    resources: Any = None,
    auth_policy: Any = None,
) -> ModelInfo:
    """Log a causal language model; see `save_model` for what concerns the model itself.

    The facts of the quantization and its base model become the LoggedModel's params (`llm.*`), so that
    `mlflow.search_logged_models` finds them.

    Args:
        model: A Hub id, a checkpoint directory, a transformers model, a text-generation pipeline, or
            {"model": model, "tokenizer": tokenizer}.
        name: Of the LoggedModel; characters that MLflow does not allow, such as ".", become "-", with a warning.
        tokenizer: See `save_model`, as for all arguments up to `inference_config`.
        quantization: None keeps the weights as they are; a method such as "nf4" or "openvino-int8", "auto", or a
            configuration.
        revision: Branch, tag or commit of the Hub repository.
        save_pretrained: False saves a reference instead of the weights.
        task: "llm/v1/chat" or "llm/v1/completions".
        chat_template: Jinja template to use instead of the tokenizer's.
        prompt_template: Text with "{prompt}" once.
        generation_config: Request defaults.
        engine_config: Keys of `ModelConfig`.
        trust_remote_code: Run Python code of the checkpoint.
        bundle_plugin: Whether the artifact carries a wheel of this package.
        model_config: As `engine_config`, under MLflow's name.
        inference_config: Deprecated name of `model_config`.
        artifact_path: Deprecated name of `name`.
        registered_model_name: Also register the model under this name.
        await_registration_for: Seconds to wait for the registration.
        signature: None is the signature that keeps every payload intact.
        input_example: Stored with the model; the model is not run on it.
        pip_requirements: Instead of the computed requirements.
        extra_pip_requirements: Beside the computed requirements.
        conda_env: Instead of the computed environment.
        code_paths: Python files and folders to store.
        metadata: Stored in MLmodel.
        prompts: Prompts of the registry to link.
        params: Further params of the LoggedModel.
        tags: Tags of the LoggedModel.
        model_type: Free text.
        step: Training step that the model belongs to.
        model_id: An existing LoggedModel to log into.
        run_id: The run to log under; None is the active one.
        resources: See `mlflow.models.Model.log`.
        auth_policy: See `mlflow.models.Model.log`.

    Raises:
        MlflowException: Names the value that cannot be used, what is allowed and what to do.
    """
    with mlflow_errors():
        config = ModelConfig.at_log_time(engine_config, model_config, inference_config)
        name, artifact_path = _allowed_name(name, "name"), _allowed_name(artifact_path, "artifact_path")
    info = Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=sys.modules[__package__],
        registered_model_name=registered_model_name,
        await_registration_for=await_registration_for,
        metadata=metadata,
        run_id=run_id,
        resources=resources,
        auth_policy=auth_policy,
        prompts=prompts,
        model_type=model_type,
        params=params,
        tags=tags,
        step=step,
        model_id=model_id,
        # From here on: arguments of save_model. As `model_config`, MLflow would log each key as a param of the run.
        engine_config=config.as_given(),
        validate_serving_input=False,  # it would load the model once more beside the one in memory
        model=model,
        tokenizer=tokenizer,
        quantization=quantization,
        revision=revision,
        save_pretrained=save_pretrained,
        task=task,
        chat_template=chat_template,
        prompt_template=prompt_template,
        generation_config=generation_config,
        trust_remote_code=trust_remote_code,
        bundle_plugin=bundle_plugin,
        signature=signature,
        input_example=input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        conda_env=conda_env,
        code_paths=code_paths,
    )
    _log_facts(info, params or {})
    return info


def _allowed_name(name: Any, argument: str) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidInputError(f"{argument} must be a string, got {name!r}.")
    if not FORBIDDEN_IN_NAMES.search(name):
        return name
    allowed = FORBIDDEN_IN_NAMES.sub("-", name).strip("-")
    if not allowed:
        raise InvalidInputError(f"{argument}={name!r} has no character that MLflow allows. Use letters and digits.")
    _logger.warning(
        "The name of a logged model must not contain %s: %r is logged as %r.", "/ : . % \" '", name, allowed
    )
    return allowed


def _log_facts(info: ModelInfo, given: Mapping[str, Any]) -> None:
    """Only now are they all known, such as the bytes of quantized weights."""
    facts = FlavorRecord.parse(info.flavors[FLAVOR_NAME]).as_params()
    own = {key: value for key, value in facts.items() if key not in given}
    mlflow.MlflowClient().log_model_params(info.model_id, own)

"""The signature of an artifact: parameters only, because any input columns make MLflow drop or refuse payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import shown

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ParamSchema

# Name -> MLflow type. All are declared from the start, since the signature of an artifact is frozen, and default to
# None, since MLflow fills in the defaults and "not given" must stay visible. `stop` is missing on purpose: an array
# parameter refuses the plain string that OpenAI allows; undeclared, it reaches predict with the data.
_SCALARS = {
    "temperature": "double",
    "top_p": "double",
    "top_k": "long",
    "min_p": "double",
    "seed": "long",
    "max_tokens": "long",
    "max_new_tokens": "long",
    "n": "long",
    "repetition_penalty": "double",
    "frequency_penalty": "double",
    "presence_penalty": "double",
    "json_schema": "string",
    "regex": "string",
}
_STRING_LISTS = ("stop_sequences", "choice")  # MLflow allows no None here: the empty list means not given

PARAMETERS = (*_SCALARS, *_STRING_LISTS)


def params_only_signature() -> ModelSignature:
    """The signature that lets every payload through as it is, with our parameters beside it."""
    from mlflow.models import ModelSignature

    return ModelSignature(params=_params())


def resolve_signature(signature: object = None) -> ModelSignature:
    """The signature to log.

    Args:
        signature: None: parameters only. "chat" or "completions": MLflow's own columns for that task with our
            parameters, for Unity Catalog, which wants inputs and outputs; every call is then one request. A
            `ModelSignature` is taken as it is.

    Raises:
        InvalidInputError: Anything else.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import llm

    if signature is None:
        return params_only_signature()
    if isinstance(signature, ModelSignature):
        return signature
    if signature == "chat":
        return ModelSignature(llm.CHAT_MODEL_INPUT_SCHEMA, llm.CHAT_MODEL_OUTPUT_SCHEMA, _params())
    if signature == "completions":
        return ModelSignature(llm.COMPLETIONS_MODEL_INPUT_SCHEMA, llm.COMPLETIONS_MODEL_OUTPUT_SCHEMA, _params())
    raise InvalidInputError(
        f"signature must be None, 'chat', 'completions' or a ModelSignature, got {shown(signature)}."
    )


def frame_is_request(signature: ModelSignature | None) -> bool:
    """Whether MLflow makes a DataFrame of one request's fields under this signature: those with OpenAI's columns."""
    from mlflow.types import llm

    return signature is not None and signature.inputs in (
        llm.CHAT_MODEL_INPUT_SCHEMA,
        llm.COMPLETIONS_MODEL_INPUT_SCHEMA,
    )


def given(params: dict[str, Any] | None) -> dict[str, Any]:
    """The parameters that a caller gave, without the defaults that MLflow filled in."""
    return {name: value for name, value in (params or {}).items() if value is not None and value != []}


def _params() -> ParamSchema:
    from mlflow.types.schema import ParamSchema, ParamSpec

    scalars = [ParamSpec(name, dtype, None) for name, dtype in _SCALARS.items()]
    return ParamSchema([*scalars, *(ParamSpec(name, "string", [], shape=(-1,)) for name in _STRING_LISTS)])

"""One of the things that are compared: a model, how it is asked, and how it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator
from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.settings import Settings

_NAME = re.compile(r"[\w.\-: ]+", re.ASCII)  # what MLflow allows in keys of metrics, without the slash between parts
_ENDPOINT = "endpoints:"
_LONGEST_PARAM = 6000  # MLflow's limit


class Variant(Settings):
    """A model, or finished predictions, and all that sets it apart from the other variants."""

    model: Any = Field(None, description="A URI, 'endpoints:/name', a pyfunc model or a function.")
    predictions: str | None = Field(
        None, min_length=1, description="Instead of a model, the column of the data with its finished answers."
    )
    prompt_template: str | None = Field(
        None,
        min_length=1,
        description="What the model is asked, with columns of the row: 'Answer briefly: {inputs}'. '{{' is a brace.",
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of each request, over those of evaluator_config."
    )
    load_config: dict[str, Any] = Field(  # pydantic has another use for the name
        default_factory=dict,
        alias="model_config",
        description="Settings to load a URI with, for example {'quantization': 'nf4'}.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.model is None) == (self.predictions is None):
            raise ValueError("give either a model or predictions=..., a column of the data.")
        if self.predictions is not None and (self.prompt_template or self.params):
            raise ValueError("finished predictions have no prompt_template and no params; give a model to ask.")
        if self.is_function and self.params:
            raise ValueError("a function gets no params: have it use them itself, by functools.partial for example.")
        if not (self.model is None or isinstance(self.model, str) or callable(self.model) or self._predicts()):
            raise ValueError(
                f"model must be a URI, 'endpoints:/name', a pyfunc model or a function, "
                f"got {type(self.model).__name__}."
            )
        if self.load_config and not self.is_loaded_here:
            raise ValueError("model_config is used when a model is loaded: give the model by its URI.")
        return self

    @property
    def is_loaded_here(self) -> bool:
        """Whether the model is given by a URI to load."""
        return isinstance(self.model, str) and not self.model.startswith(_ENDPOINT)

    @property
    def is_function(self) -> bool:
        """Whether the model is a function, of which only whole answers are seen."""
        return callable(self.model)  # also where it has a `predict`: MLflow calls it

    def described(self) -> dict[str, str]:
        """What is set, as parameters of a run."""
        given = {
            "model": self._model_name(),
            "predictions": self.predictions,
            "prompt_template": self.prompt_template,
            "params": json.dumps(self.params, default=str) if self.params else None,
            "model_config": json.dumps(self.load_config, default=str) if self.load_config else None,
        }
        return {name: text[:_LONGEST_PARAM] for name, text in given.items() if text is not None}

    def _predicts(self) -> bool:
        return hasattr(self.model, "predict")

    def _model_name(self) -> str | None:
        if self.model is None or isinstance(self.model, str):
            return self.model
        return getattr(self.model, "__name__", None) or type(self.model).__name__


def variants_of(models: Mapping[str, Any]) -> dict[str, Variant]:
    """Read what the user wrote: name -> model, `Variant` or the dictionary of one.

    Raises:
        InvalidInputError: There is none, a name cannot be used, or a variant is wrong; says what is allowed.
    """
    if not isinstance(models, Mapping) or not models:
        raise InvalidInputError(f"models must be a dictionary with at least one name -> model, got {models!r:.200}.")
    seen: dict[str, str] = {}
    for name in models:
        _check_name(name)
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise InvalidInputError(f"models: {other!r} and {name!r} differ in upper case only; rename one.")
    return {name: _variant(name, model) for name, model in models.items()}


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidInputError(
            f"models: a name must be of letters, digits, spaces inside, '_', '-', '.' and ':', for the names of runs "
            f"and metrics; got {name!r}."
        )


def _variant(name: str, model: Any) -> Variant:
    if isinstance(model, Variant):
        return model
    return Variant.parse(model if isinstance(model, Mapping) else {"model": model}, f"models[{name!r}]")

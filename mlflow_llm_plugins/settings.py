"""Settings from outside: frozen pydantic models that refuse unknown keys in words that help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, strings such as "4" coerced to the field's type."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)
    UNSHOWN: ClassVar[frozenset[str]] = frozenset()  # fields whose values may be secrets

    @classmethod
    def parse(cls, raw: Mapping[str, Any], source: str) -> Self:
        """Check `raw` and build the settings.

        Args:
            raw: Keys as the user wrote them.
            source: Where they came from, for the message, for example "engine_config".

        Raises:
            InvalidInputError: `raw` is no mapping, or has wrong keys or values; names each, what is allowed, and the
                nearest known key.
        """
        if not isinstance(raw, Mapping):
            raise InvalidInputError(f"{source} must be a dictionary, got {type(raw).__name__}.")
        try:
            return cls.model_validate(dict(raw))
        except ValidationError as error:
            problems = "; ".join(cls._describe(problem) for problem in error.errors(include_url=False))
            raise InvalidInputError(f"{source}: {problems}") from error

    @classmethod
    def _describe(cls, problem: Any) -> str:
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = sorted(field.alias or name for name, field in cls.model_fields.items())
            return f"unknown key {key!r}.{did_you_mean(key, known)} Known keys: {', '.join(known)}"
        message: str = problem["msg"].removeprefix("Value error, ")  # pydantic's, before what our own validators say
        if not problem["loc"]:
            return message
        is_shown = problem["loc"][0] not in cls.UNSHOWN
        return f"{key}={problem['input']!r}: {message}" if is_shown else f"{key}: {message}"

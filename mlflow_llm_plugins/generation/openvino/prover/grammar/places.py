"""Where in a JSON schema something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.sampling.forms import shortened

_HONOURED = "The JSON schema cannot be honoured:"


@dataclass(frozen=True, slots=True)
class Place:
    """A JSON pointer, for messages."""

    pointer: str

    def __truediv__(self, below: str | int) -> Place:
        """A place in this one."""
        return Place(f"{self.pointer}/{below}")

    def wrong(self, allowed: str, value: object) -> InvalidInputError:
        """The error of a value that no schema has there."""
        return InvalidInputError(shortened(f"{_HONOURED} {self.pointer}: {allowed}, got {value!r}") + ".")

    def unsupported(self, what: str) -> UnsupportedFeatureError:
        """The error of something that schemas may have, and no answer can be held to here.

        Args:
            what: What words such as "is not supported" follow, with its verb.
        """
        reason = f"{_HONOURED} {self.pointer}: {what} not supported by the engine 'openvino'"
        return UnsupportedFeatureError(shortened(reason) + ".")

    @contextmanager
    def regex(self) -> Iterator[None]:
        """Have errors of a regex tell that it is the one here."""
        try:
            yield
        except InvalidInputError as error:
            if str(error).startswith(_HONOURED):
                raise
            raise type(error)(shortened(f"{_HONOURED} {self.pointer}: {error}") + ".") from error

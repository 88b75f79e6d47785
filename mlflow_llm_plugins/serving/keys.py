"""API keys: read once, compared in constant time, never shown."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow_llm_plugins.errors import InvalidInputError

KEY, KEY_FILE = "MLFLOW_LLM_API_KEY", "MLFLOW_LLM_API_KEY_FILE"


class ApiKeys:
    """The keys that a server takes; only their digests are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Without keys everybody is let in."""
        self._digests = tuple(_digest(key.encode()) for key in keys)

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._digests)

    def admit(self, authorization: bytes) -> bool:
        """Whether an Authorization header holds one of the keys: `Bearer KEY`, the scheme in any case."""
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        known = False
        for digest in self._digests:  # all of them: the time must not tell which one is near
            known |= hmac.compare_digest(given, digest)
        return known and scheme.lower() == b"bearer"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ApiKeys:
        """The keys of `MLFLOW_LLM_API_KEY_FILE`, one a line, and `MLFLOW_LLM_API_KEY`.

        Raises:
            InvalidInputError: The file cannot be read, or no key is in what is set.
        """
        if not keys_are_wanted(environ):
            return cls()
        lines = [environ.get(KEY, "")]
        if path := environ.get(KEY_FILE):
            lines += _read(Path(path)).splitlines()
        keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
        if not keys:
            raise InvalidInputError(f"{KEY_FILE} or {KEY} is set but holds no key; give one a line, or unset it.")
        return cls(keys)


def keys_are_wanted(environ: Mapping[str, str]) -> bool:
    """Whether somebody meant the server to ask for a key; a variable that is set to nothing counts, too."""
    return KEY in environ or KEY_FILE in environ


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInputError(f"{KEY_FILE}={str(path)!r} cannot be read: {reason}.") from error


def _digest(key: bytes) -> bytes:
    """Digests have one length, so that the comparison does not tell the key's."""
    return hashlib.sha256(key).digest()

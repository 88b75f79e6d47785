"""Where the key of a judge's server comes from: a variable or a file, never the settings themselves."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlflow_llm_plugins.errors import AccessDeniedError
from mlflow_llm_plugins.metrics.judge.backends.http_calls import is_loopback
from mlflow_llm_plugins.metrics.judge.backends.settings import ServerSettings

_USUAL = "OPENAI_API_KEY"
_LIKE_A_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


def api_key(url: str, settings: ServerSettings) -> str | None:
    """The key, or None where none is named and OPENAI_API_KEY is not set.

    OPENAI_API_KEY is sent only where others cannot read it: over https, or to this machine. Name it as `api_key_env`
    to send it anyway.

    Raises:
        AccessDeniedError: A key is named, and is not there.
    """
    if settings.api_key_file is not None:
        return _of_file(settings.api_key_file)
    if settings.api_key_env is None:
        is_private = url.startswith("https://") or is_loopback(url)
        return (os.environ.get(_USUAL, "").strip() or None) if is_private else None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise AccessDeniedError(f"judge: {_variable(settings.api_key_env)} is not set; set it to the server's key.")
    return key


def _of_file(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AccessDeniedError(f"judge: {_file(path)} cannot be read: {reason}.") from None
    key = next((line.strip() for line in lines if line.strip() and not line.strip().startswith("#")), None)
    if key is None:
        raise AccessDeniedError(f"judge: {_file(path)} holds no key; write one into it.")
    return key


def _variable(name: str) -> str:
    """The variable as messages name it: what does not look like one may be a key in the wrong place."""
    return f"api_key_env={name!r}" if _LIKE_A_VARIABLE.fullmatch(name) else "the variable that api_key_env names"


def _file(path: str) -> str:
    """The file as messages name it, with the same care."""
    is_path = os.path.exists(path) or os.path.isabs(path) or path.startswith(("./", "../"))
    return f"api_key_file={path!r}" if is_path else "the file that api_key_file names"

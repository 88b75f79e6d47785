"""What a target's URI means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow_llm_plugins.deployments.local.home import Home, checked_name
from mlflow_llm_plugins.errors import InvalidInputError

TARGET = "local"


def home_of(uri: str, environ: Mapping[str, str]) -> Home:
    """The state directory that the URI of a target names.

    Args:
        uri: `local`, the default directory; `local:/path`, that one; `local://name`, a folder of the default one.
        environ: `MLFLOW_LLM_HOME` says where the default one is.

    Raises:
        InvalidInputError: It is none of these.
    """
    default = Home.default(environ)
    if uri == TARGET:
        return default
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.scheme == TARGET and not parts.query and not parts.fragment:
        if parts.netloc and path in ("", "/"):
            return Home(default.root / "targets" / checked_name(parts.netloc, "target"))
        if not parts.netloc and path.startswith("/") and path.strip("/"):
            return Home(Path(os.path.normpath(path)))
    raise InvalidInputError(
        f"Target {uri!r}: must be {TARGET}, {TARGET}:/path/of/the/state/directory, or {TARGET}://name."
    )

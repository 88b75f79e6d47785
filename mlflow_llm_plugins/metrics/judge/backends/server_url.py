"""The address of a judge's server, as users write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from mlflow_llm_plugins.errors import InvalidInputError

_ROUTES = ("/systemone", "/decisions", "/chat/completions")  # that somebody may have copied with it
_USER = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
_EXAMPLE = "Write it as 'http://host:port/v1#model'."


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """An address; it holds no key."""

    base: str  # paths such as /chat/completions are appended to it
    model: str | None

    @classmethod
    def of(cls, url: str) -> ServerUrl:
        """Read `http(s)://host:port/v1`, with `#model` or `?model=` behind it; `/v1` is meant where there is no path.

        Raises:
            InvalidInputError: It is no such address, or holds a password.
        """
        without_key(url, "a URL")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            reason = "" if "@" in url else f": {error}"  # which may repeat a part of a password
            raise InvalidInputError(f"judge: the URL cannot be read{reason}. {_EXAMPLE}") from None
        if parts.scheme.lower() not in ("http", "https") or not host:
            scheme = url.partition(":")[0]
            raise InvalidInputError(f"judge='{scheme}:...' is no http or https URL with a host. {_EXAMPLE}")
        return cls(f"{parts.scheme.lower()}://{parts.netloc}{_path(parts.path)}", _model(parts.query, parts.fragment))


def without_key(url: str, what: str) -> str:
    """The URL, if nobody has put a name or password before its host.

    Args:
        url: Or any other text.
        what: It is, for the message.

    Raises:
        InvalidInputError: There is one; it is not shown.
    """
    if _USER.match(url):
        raise InvalidInputError(
            f"judge: {what} may hold no key or password before the host; name a variable as api_key_env, or set that "
            f"of the provider. {_EXAMPLE}"
        )
    return url


def _path(path: str) -> str:
    path = path.rstrip("/")
    for route in _ROUTES:
        path = path.removesuffix(route)
    return path or "/v1"


def _model(query: str, fragment: str) -> str | None:
    given = parse_qs(query, keep_blank_values=True)
    if set(given) - {"model"}:  # a key perhaps, so nothing is shown
        raise InvalidInputError(f"judge: a URL may have ?model= and nothing else behind its path. {_EXAMPLE}")
    models = {name for name in [*given.get("model", []), unquote(fragment)] if name}
    if len(models) > 1:
        raise InvalidInputError(f"judge: the URL names two models, {' and '.join(sorted(models))}.")
    return models.pop() if models else None

"""The address of a judge's server, as users write it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from mlflow_llm_plugins.errors import InvalidInputError

_ROUTES = ("/systemone", "/decisions", "/chat/completions")  # that somebody may have copied with it
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
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidInputError(f"judge: the URL cannot be read: {error}. {_EXAMPLE}") from None
        if parts.scheme.lower() not in ("http", "https") or not host:
            raise InvalidInputError(f"judge={url!r} is no http or https URL. {_EXAMPLE}")
        if parts.username is not None or parts.password is not None:
            raise InvalidInputError(f"judge: a URL may hold no key; name a variable as api_key_env. {_EXAMPLE}")
        return cls(f"{parts.scheme.lower()}://{parts.netloc}{_path(parts.path)}", _model(parts.query, parts.fragment))


def _path(path: str) -> str:
    path = path.rstrip("/")
    for route in _ROUTES:
        path = path.removesuffix(route)
    return path or "/v1"


def _model(query: str, fragment: str) -> str | None:
    given = parse_qs(query, keep_blank_values=True)
    if unknown := [name for name in given if name != "model"]:  # a key perhaps, so no value is shown
        names = ", ".join(unknown)
        raise InvalidInputError(f"judge: a URL may have ?model= and nothing else, got {names}. {_EXAMPLE}")
    models = {name for name in [*given.get("model", []), unquote(fragment)] if name}
    if len(models) > 1:
        raise InvalidInputError(f"judge: the URL names two models, {' and '.join(sorted(models))}.")
    return models.pop() if models else None

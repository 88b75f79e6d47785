"""Which model of a server judges: the one that is named, or the only one that it has."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends.http_calls import HttpCalls
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError

DENIED = (401, 403)
UNKNOWN_KEY = 401
_LISTING_S = 5.0  # in which a server is to tell its models
_TRIES = 2  # of a server that says nothing at all
_SHOWN = 10  # models in a message


class ServedModel:
    """A model behind a URL. Thread-safe."""

    def __init__(self, url: str, name: str | None) -> None:
        """Take what is known, and ask nobody.

        Args:
            url: Of the server, for messages.
            name: None: not known yet.
        """
        self._url = url
        self.name = name  # None after `find`: the server does not tell, and decides itself
        self._is_known = name is not None
        self._tries = 0
        self._looking = threading.Lock()

    def find(self, calls: HttpCalls) -> None:
        """Find out the name, once.

        Raises:
            InvalidInputError: The server has several models.
            UnansweredError: There is no server, or it does not let us in.
        """
        with self._looking:
            if self._is_known:
                return
            self._tries += 1
            try:
                self.name = self._only(_listed(calls))
            except UnansweredError as error:
                if _is_final(error):
                    raise
                if error.is_silence and self._tries < _TRIES:
                    return
            self._is_known = True

    def check(self, calls: HttpCalls) -> None:
        """Find out the name, or else whether the server is there and knows the key.

        Raises:
            InvalidInputError: The server has several models and none is named.
            UnansweredError: There is no server, or it does not let us in.
        """
        if not self._is_known:
            self.find(calls)
            return
        try:
            _listed(calls)
        except UnansweredError as error:
            if _is_final(error):
                raise

    def _only(self, listed: Any) -> str | None:
        entries = listed.get("data") if isinstance(listed, Mapping) else None
        rows = entries if isinstance(entries, list) else []
        names = [row.get("id") for row in rows if isinstance(row, Mapping)]
        if len(names) > 1:
            shown = ", ".join(map(str, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
            raise InvalidInputError(f"{self._url} has several models; name one, as {self._url}#NAME: {shown}.")
        return names[0] if names and isinstance(names[0], str) else None


def _is_final(error: UnansweredError) -> bool:
    """Whether no question need be asked: some keys may ask and not list, and a slow server may answer yet."""
    return error.is_unreached or error.status == UNKNOWN_KEY


def _listed(calls: HttpCalls) -> Any:
    return calls.get("/models", _LISTING_S)

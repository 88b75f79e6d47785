"""Why a server refused a request: a code, words and the parameter, without what it may repeat of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")  # what tells a server's reason and can hold nothing of a text
_LONGEST = 2**16  # characters of words


@dataclass(frozen=True, slots=True)
class Refusal:
    """To look into; only `code` is fit to be shown, since words may repeat the question."""

    code: str = ""
    words: str = ""
    parameter: str = ""  # what the server says was wrong, in the terms of the request

    def names(self, parameter: str, text: str) -> bool:
        """Whether a parameter is refused, rather than a text that happens to speak of it.

        Args:
            parameter: Its name.
            text: Of the question, which the server's words may repeat.
        """
        return parameter in self.parameter or (parameter in self.words and parameter not in text)


NO_REFUSAL = Refusal()


def refusal_of(content: bytes) -> Refusal:
    """Read the body of a refusal, in the form of OpenAI, of FastAPI or of vLLM; else as words."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return Refusal(words=content[:_LONGEST].decode(errors="replace"))
    if not isinstance(body, Mapping):
        return NO_REFUSAL
    if isinstance(body.get("detail"), list):
        return _of_places(body["detail"])
    error = body.get("error", body)
    if isinstance(error, str):
        return Refusal(words=error[:_LONGEST])
    return _of_error(error) if isinstance(error, Mapping) else NO_REFUSAL


def _of_error(error: Mapping[str, Any]) -> Refusal:
    codes = (error.get(name) for name in ("code", "type"))
    code = next((code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)), "")
    said = [error.get(name) for name in ("message", "detail")]
    words = " ".join(word for word in said if isinstance(word, str))
    return Refusal(code, words[:_LONGEST], str(error.get("param") or ""))


def _of_places(problems: list[Any]) -> Refusal:
    """Pydantic's problems: the place and what is wrong there, never the input."""
    found = [problem for problem in problems if isinstance(problem, Mapping)]
    places = [place for problem in found if isinstance(place := problem.get("loc"), list)]
    return Refusal(
        words=" ".join(str(problem.get("msg", "")) for problem in found)[:_LONGEST],
        parameter=" ".join(".".join(map(str, place)) for place in places),
    )

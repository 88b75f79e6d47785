"""Where a deployment answers, and what lets a client in."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mlflow_llm_plugins.errors import InvalidInputError


def shell_command(verb: str, target: str, name: str | None = None) -> str:
    """What does this to a deployment, or to all of a target, in a shell.

    Args:
        verb: Of `mlflow deployments`, for example `get`.
        target: URI.
        name: Of the deployment; None: the verb takes none.
    """
    command = f"mlflow deployments {verb} -t {shlex.quote(target)}"
    return command if name is None else f"{command} --name {name}"


@dataclass(frozen=True, slots=True)
class Address:
    """What a client must know of a deployment; it never holds a key, only the place of one."""

    url: str  # for example http://127.0.0.1:5001
    is_ours: bool  # a quantized LLM, whose server has the routes of OpenAI's API
    api_key_file: Path | None
    timeout_s: float  # after which the server gives a request up
    name: str
    target: str = "local"  # of the client, for the commands in messages

    def command(self, verb: str) -> str:
        """What does this to the deployment in a shell.

        Args:
            verb: Of `mlflow deployments`, for example `get`.
        """
        return shell_command(verb, self.target, self.name)

    def authorization(self) -> dict[str, str]:
        """The headers that let a request in; none where no key is asked for.

        Raises:
            InvalidInputError: The file of the keys cannot be read, or holds none; its content is not shown.
        """
        if self.api_key_file is None:
            return {}
        lines = (line.strip() for line in self._lines(self.api_key_file))
        key = next((line for line in lines if line and not line.startswith("#")), None)
        if key is None:
            raise InvalidInputError(f"api_key_file={str(self.api_key_file)!r} holds no key; write one into it.")
        # HTTP clients write headers in latin-1, and the server compares the bytes of UTF-8.
        return {"Authorization": "Bearer " + key.encode().decode("latin-1")}

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise InvalidInputError(
                f"api_key_file={str(path)!r} of deployment {self.name!r} cannot be read: {reason}. Make it readable "
                f"for you, or name another one: {self.command('update')} -C api_key_file=PATH."
            ) from error

"""The state directory: where each deployment and endpoint keeps what it must remember."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.errors import InvalidInputError

_DOWNLOAD = "model-"  # begins the names of folders with downloaded models
HOME = "MLFLOW_LLM_HOME"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class DeploymentFolder:
    """The files of one deployment."""

    path: Path

    @property
    def name(self) -> str:
        """Of the deployment."""
        return self.path.name

    @property
    def spec(self) -> Path:
        """What was asked (`Spec`); only commands write it."""
        return self.path / "spec.json"

    @property
    def status(self) -> Path:
        """What is (`Status`); only the supervisor writes it."""
        return self.path / "status.json"

    @property
    def life_lock(self) -> Path:
        """Held by the supervisor; never deleted before the folder is."""
        return self.path / "supervisor.lock"

    @property
    def command_lock(self) -> Path:
        """Held by a command that changes the deployment."""
        return self.path / "command.lock"

    @property
    def log(self) -> Path:
        """What the server says; rotated as `server.log.1` and so on."""
        return self.path / "server.log"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor says, mostly nothing."""
        return self.path / "supervisor.log"

    @property
    def api_key(self) -> Path:
        """A generated API key."""
        return self.path / "api_key"

    def key_file(self, settings: DeploymentConfig) -> Path | None:
        """Where the API keys are; None: nobody asks for one."""
        return self.api_key if settings.generate_api_key else settings.api_key_file

    def new_download(self) -> Path:
        """Where a model can be downloaded to; nobody else has this place."""
        return self.path / f"{_DOWNLOAD}{uuid.uuid4().hex[:12]}"

    def downloads(self) -> Iterable[Path]:
        """Those that are there."""
        return self.path.glob(f"{_DOWNLOAD}*")

    def remove_download(self, model: Path) -> None:
        """Remove a model if it was downloaded into this folder; others are not touched."""
        for download in self.downloads():
            if download.resolve() in (model.resolve(), *model.resolve().parents):
                shutil.rmtree(download, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Home:
    """One state directory."""

    root: Path

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> Home:
        """`MLFLOW_LLM_HOME`, else the platform's directory for the state of a user's programs."""
        if given := environ.get(HOME):
            return cls(Path(os.path.abspath(Path(given).expanduser())))  # without "..", which MLflow takes out, too
        import platformdirs

        return cls(Path(platformdirs.user_state_dir("mlflow-llm-plugins", appauthor=False)))

    @property
    def deployments(self) -> Path:
        """A folder for each."""
        return self.root / "deployments"

    @property
    def endpoints(self) -> Path:
        """A file for each."""
        return self.root / "endpoints"

    @property
    def lock(self) -> Path:
        """Held for an instant by commands that add or remove."""
        return self.root / ".lock"

    def folder(self, name: str) -> DeploymentFolder:
        """Of a deployment, which may not be there.

        Raises:
            InvalidInputError: The name cannot be that of a deployment.
        """
        return DeploymentFolder(self.deployments / checked_name(name, "deployment"))

    def folders(self) -> list[DeploymentFolder]:
        """Of all deployments, by name."""
        with suppress(FileNotFoundError, NotADirectoryError):
            names = sorted(entry.name for entry in os.scandir(self.deployments) if entry.is_dir())
            return [DeploymentFolder(self.deployments / name) for name in names if _NAME.fullmatch(name)]
        return []

    def make(self) -> None:
        """Create the directories, for the owner alone.

        Raises:
            InvalidInputError: They cannot be written.
        """
        try:
            for path in (self.root, self.deployments, self.endpoints):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.deployments, os.W_OK | os.X_OK) or not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise InvalidInputError(
                f"The state directory {self.root} cannot be written: {error.strerror}. Set {HOME} to a directory that "
                "you can write, or name one in the target: local:/path."
            ) from error


def checked_name(name: str, what: str) -> str:
    """The name, which also becomes that of a file.

    Raises:
        InvalidInputError: Says what is allowed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{what} name {name!r}: must be 1 to 63 letters, digits, dots, dashes or underscores, and begin with a "
            "letter or a digit."
        )
    return name

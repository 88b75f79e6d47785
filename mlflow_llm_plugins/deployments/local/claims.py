"""Who may change what: a name is claimed by one command, and a deployment changed by one at a time."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from filelock import FileLock, Timeout

from mlflow_llm_plugins.deployments.local.ending import end_deployment
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder, Home
from mlflow_llm_plugins.deployments.local.records import Spec, write_record
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.errors import DeploymentBusyError, ResourceExistsError, ResourceNotFoundError

_HOME_LOCK_S = 30.0
_COMMAND_LOCK_S = 1.0  # for those who only look whether it is held, for an instant each
_GONE = ".gone-"  # begins the names of folders that are being deleted


@contextmanager
def held(home: Home) -> Iterator[None]:
    """Hold the state directory, for a moment: nobody adds or removes a deployment meanwhile.

    Raises:
        DeploymentBusyError: Another command holds it for too long.
    """
    try:
        with FileLock(home.lock, timeout=_HOME_LOCK_S):
            yield
    except Timeout:
        raise DeploymentBusyError(f"Another command holds {home.lock} since more than {_HOME_LOCK_S:g} s.") from None


@contextmanager
def changing(folder: DeploymentFolder) -> Iterator[None]:
    """Be the one command that changes the deployment.

    Raises:
        DeploymentBusyError: Another one does.
        ResourceNotFoundError: It was deleted meanwhile.
    """
    if not folder.path.is_dir():  # which the lock would create
        raise deleted(folder.name)
    with _command_lock(folder):
        _check_there(folder)
        yield


@contextmanager
def claimed(home: Home, folder: DeploymentFolder, spec: Spec) -> Iterator[None]:
    """Take the name for a new deployment, and be the one command that changes it; what is left of a dead one goes.

    Raises:
        ResourceExistsError: It is taken by a deployment that lives, or that another command is creating.
    """
    with ExitStack() as stack:
        with held(home):
            _sweep(home)
            _check_free(folder)
            folder.path.mkdir(mode=0o700, exist_ok=True)
            stack.enter_context(_command_lock(folder))
            _begin(folder, spec)
        yield


@contextmanager
def _command_lock(folder: DeploymentFolder) -> Iterator[None]:
    try:
        with FileLock(folder.command_lock, timeout=_COMMAND_LOCK_S):
            yield
    except Timeout:
        raise DeploymentBusyError(
            f"Another command is changing deployment {folder.name!r}. Wait for it, or delete the deployment."
        ) from None


def _check_free(folder: DeploymentFolder) -> None:
    view = View.of(folder)
    if view is not None and (view.is_claimed or view.is_being_changed):
        state, _ = view.state()
        raise ResourceExistsError(
            f"Deployment {folder.name!r} exists already and is {state}. Update or delete it, or take another name."
        )


def _begin(folder: DeploymentFolder, spec: Spec) -> None:
    """Put the spec in the place of what a dead deployment has left."""
    view = View.of(folder)
    if view is not None:
        end_deployment(view)
        _empty(folder)
    try:
        write_record(spec, folder.spec)
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _check_there(folder: DeploymentFolder) -> None:
    """The lock has made the folder anew, if another command has deleted it just before."""
    if folder.spec.exists() or folder.status.exists():
        return
    shutil.rmtree(folder.path, ignore_errors=True)
    raise deleted(folder.name)


def deleted(name: str) -> ResourceNotFoundError:
    """For a command whose deployment another one has deleted."""
    return ResourceNotFoundError(f"Deployment {name!r} was deleted meanwhile.")


def write_spec(folder: DeploymentFolder, spec: Spec) -> None:
    """Write what is asked of a deployment that this command is changing.

    Raises:
        ResourceNotFoundError: It was deleted meanwhile.
    """
    view = View.of(folder)
    if view is None or not (folder.spec.exists() or folder.status.exists()):
        raise deleted(spec.name)
    known = view.spec or view.serving  # the spec may be missing or damaged
    if known is not None and known.created != spec.created:
        raise deleted(spec.name)
    write_record(spec, folder.spec)


def remove(home: Home, folder: DeploymentFolder, created: float | None = None) -> None:
    """Forget a deployment that has ended.

    Args:
        home: It belongs to.
        folder: May be gone already.
        created: Of its spec; one that was created at another time stays. None: whichever is there.
    """
    with held(home):
        view = View.of(folder)
        if view is None:
            return
        if created is not None and view.spec is not None and view.spec.created != created:
            return
        gone = home.deployments / f"{_GONE}{uuid.uuid4().hex}"
        folder.path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _empty(folder: DeploymentFolder) -> None:
    """All but the locks, which others may be waiting for."""
    for path in folder.path.iterdir():
        if path in (folder.life_lock, folder.command_lock):
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _sweep(home: Home) -> None:
    """What a command that was killed while it deleted has left."""
    for path in home.deployments.glob(f"{_GONE}*"):
        shutil.rmtree(path, ignore_errors=True)

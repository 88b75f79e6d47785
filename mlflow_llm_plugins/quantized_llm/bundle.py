"""Our own wheel in an artifact, for environments that are made from the artifact.

A release that came from an index is named by its version. Anything else (an editable install, a wheel file, a
checkout) exists only here, so its wheel travels along, in a folder that the requirements name with `--find-links`: pip
and uv look for it beside the requirements file, wherever they run. A wheel named by its path would be looked for in
the working directory, which inside an image of `mlflow models generate-dockerfile` is another one.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import logging
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

import mlflow_llm_plugins
from mlflow_llm_plugins.errors import InvalidInputError, LLMError, MissingDependencyError, UnsupportedFeatureError
from mlflow_llm_plugins.lookup import is_importable

DISTRIBUTION = "mlflow-llm-plugins"

_logger = logging.getLogger(__name__)

BundlePlugin = bool | Literal["auto"]
Members = dict[str, bytes]  # path in the wheel -> content

WHEELS_FOLDER = "wheels"  # as MLflow calls the one of its WheeledModel
PACKAGE = Path(mlflow_llm_plugins.__path__[0])
BUILD_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")  # beside the package, all a build reads
SETUPTOOLS = "setuptools>=77"  # as pyproject.toml says
BUILD_TIMEOUT_S = 120.0
# The rest of a dist-info folder is the installer's, who writes there from where on this machine it installed.
METADATA_FILES = ("METADATA", "WHEEL", "entry_points.txt", "top_level.txt")
LICENSES_FOLDER = "licenses"
BUILD_PREFIX = "0x"  # a build number must start with a digit
_CALL_BACKEND = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content makes the same file


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of this package with a build number that names its content.

    The number makes pip and uv prefer it to a release of the same version, and as the folder's name in the
    requirements it makes MLflow create another environment where it would reuse one with other code.
    """

    version: str
    build: str
    content: bytes

    @property
    def folder(self) -> str:
        """In the artifact."""
        return f"{WHEELS_FOLDER}/{self.build}"

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{DISTRIBUTION.replace('-', '_')}-{self.version}-{self.build}-py3-none-any.whl"

    def write(self, artifact: Path) -> None:
        """Put it into an artifact's folder."""
        folder = artifact / self.folder
        folder.mkdir(parents=True)
        (folder / self.name).write_bytes(self.content)


def wheel_to_bundle(bundle_plugin: BundlePlugin, *, environment_given: bool, package: Path = PACKAGE) -> Wheel | None:
    """What an artifact must carry for its requirements to be met elsewhere.

    Args:
        bundle_plugin: "auto" is what did not come from an index, with a warning where no wheel can be made.
        environment_given: Whether the user wrote the requirements, which "auto" leaves alone.
        package: The folder of this package.

    Raises:
        InvalidInputError: `bundle_plugin` is something else.
        MissingDependencyError: True, and setuptools is needed and not installed.
        UnsupportedFeatureError: True, and a wheel cannot be made.
    """
    if not isinstance(bundle_plugin, bool) and bundle_plugin != "auto":
        raise InvalidInputError(f"bundle_plugin must be 'auto', True or False, got {bundle_plugin!r}.")
    if bundle_plugin is True:
        return make_wheel(package)
    if not bundle_plugin or environment_given or is_release(package):
        return None
    try:
        return make_wheel(package)
    except LLMError as error:
        _logger.warning(
            "What is installed as %s did not come from an index, and the artifact names it by version only. %s",
            DISTRIBUTION,
            error,
        )
        return None


def is_release(package: Path) -> bool:
    """Whether an index or a folder of wheels had the installed package, so that another machine can get it by name.

    An installer leaves no direct_url.json then (PEP 610). Nor does it where it took the wheel from an artifact, which
    its build number tells.
    """
    installed = _installed(package)
    if installed is None or installed.read_text("direct_url.json") is not None:
        return False
    return f"Build: {BUILD_PREFIX}" not in (installed.read_text("WHEEL") or "")


def make_wheel(package: Path) -> Wheel:
    """A wheel from the installed files, or of a checkout or editable install from its source.

    Raises:
        MissingDependencyError: Source, and setuptools is not installed.
        UnsupportedFeatureError: There is neither a list of installed files nor a setup.py, or it failed.
    """
    installed = _installed(package)
    try:
        return _pack(_installed_members(installed) if installed else _build(_source(package)))
    except OSError as error:
        raise _not_made(str(error)) from error


def _installed(package: Path) -> importlib.metadata.Distribution | None:
    """The distribution that the package's files belong to: an editable one owns none of them, nor does an egg-info."""
    for distribution in importlib.metadata.distributions(name=DISTRIBUTION, path=[str(package.parent)]):
        if PurePosixPath(package.name, "__init__.py") in _recorded_files(distribution):
            return distribution
    return None


def _recorded_files(distribution: importlib.metadata.Distribution) -> list[PurePosixPath]:
    """Those that were installed; `distribution.files` would leave out what is gone since."""
    rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return [PurePosixPath(row[0]) for row in rows if row]


def _installed_members(distribution: importlib.metadata.Distribution) -> Members:
    files = [file for file in _recorded_files(distribution) if _belongs_in_wheel(file)]
    return {str(file): Path(str(distribution.locate_file(str(file)))).read_bytes() for file in files}


def _belongs_in_wheel(file: PurePosixPath) -> bool:
    if not file.parts[0].endswith(".dist-info"):
        return ".." not in file.parts and file.suffix != ".pyc"  # scripts outside are made from the entry points
    return file.parts[1] in (*METADATA_FILES, LICENSES_FOLDER)


def _source(package: Path) -> tuple[tuple[str, bytes], ...]:
    root = package.parent
    if not (root / "setup.py").is_file():
        raise _not_made(f"{root} has neither a setup.py nor a list of installed files")
    files = [*(root / name for name in BUILD_FILES), *sorted(package.rglob("*"))]
    kept = [file for file in files if file.is_file() and file.suffix != ".pyc"]
    return tuple((file.relative_to(root).as_posix(), file.read_bytes()) for file in kept)


@lru_cache(maxsize=1)  # models are logged often, and the source changes seldom
def _build(source: tuple[tuple[str, bytes], ...]) -> Members:
    """Members of the wheel that setuptools builds in a copy: in place it would leave a build folder behind."""
    if not is_importable("setuptools"):
        raise MissingDependencyError(
            f"Making a wheel of {DISTRIBUTION} from its source needs setuptools: pip install '{SETUPTOOLS}'"
        )
    with TemporaryDirectory(prefix="mlflow-llm-wheel-") as folder:
        root, output = Path(folder, "source"), Path(folder, "output")
        for name, content in source:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        _run_setuptools(root, output)
        with zipfile.ZipFile(next(output.glob("*.whl"))) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")}


def _run_setuptools(root: Path, output: Path) -> None:
    command = [sys.executable, "-c", _CALL_BACKEND, str(output)]
    try:
        subprocess.run(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_made(f"setuptools did not end within {BUILD_TIMEOUT_S:g} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or f"setuptools ended with {error.returncode}").splitlines()[-1]
        raise _not_made(reason) from error


def _not_made(reason: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        f"A wheel of {DISTRIBUTION} could not be made: {reason}. Install the package anew (a build needs "
        f"{SETUPTOOLS}), or pass bundle_plugin=False."
    )


def _pack(members: Members) -> Wheel:
    """A wheel of them, as https://packaging.python.org/specifications/binary-distribution-format asks for."""
    info = next(PurePosixPath(name).parent for name in members if name.endswith(".dist-info/METADATA"))
    build = _build_number(members)
    tags = [line for line in members[f"{info}/WHEEL"].decode().splitlines() if line and not line.startswith("Build:")]
    members = {**members, f"{info}/WHEEL": "\n".join([*tags, f"Build: {build}", ""]).encode()}
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.external_attr = 0o644 << 16  # else nobody may read what an installer unpacks
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return Wheel(info.stem.partition("-")[2], build, packed.getvalue())


def _build_number(members: Members) -> str:
    """Of the content, but for WHEEL, which names the release of setuptools."""
    digest = hashlib.sha256()
    for name in sorted(name for name in members if not name.endswith(".dist-info/WHEEL")):
        digest.update(f"{name} {len(members[name])} ".encode())
        digest.update(members[name])
    return f"{BUILD_PREFIX}{digest.hexdigest()[:12]}"


def _record(members: Members, own_name: str) -> bytes:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    writer.writerow([own_name, "", ""])
    return rows.getvalue().encode()

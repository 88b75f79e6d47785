"""The wheel in an artifact: what it holds, when it is carried, and that installers find it from the requirements."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.utils.requirements_utils import _check_requirement_satisfied
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from mlflow_llm_plugins import __version__, quantized_llm
from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm import bundle
from mlflow_llm_plugins.quantized_llm.bundle import PACKAGE, Wheel, is_release, make_wheel, wheel_to_bundle
from mlflow_llm_plugins.quantized_llm.requirements import write_environment

PIN = f"mlflow-llm-plugins[torch]=={__version__}"


def members(wheel: Wheel) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(wheel.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Wheel, name: str) -> str:
    return members(wheel)[f"mlflow_llm_plugins-{wheel.version}.dist-info/{name}"].decode()


def pip_install(*arguments: str, target: Path, cwd: Path) -> Path:
    """Install without a network; the folder of the package."""
    offline = ["--isolated", "--no-index", "--no-deps", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *offline, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return target / PACKAGE.name


def distribution_in(site: Path) -> importlib.metadata.Distribution:
    (found,) = importlib.metadata.distributions(path=[str(site)])
    return found


@pytest.fixture(scope="module")
def wheel() -> Wheel:
    """Of the source that the tests run on."""
    return make_wheel(PACKAGE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The package's folder in a checkout of its own, small enough to build in no time."""
    root = tmp_path / "source"
    for name in bundle.BUILD_FILES:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(PACKAGE.parent / name, root / name)
    package = root / PACKAGE.name
    package.mkdir()
    for name in ("__init__.py", "py.typed"):
        shutil.copy(PACKAGE / name, package / name)
    return package


@pytest.fixture(scope="module")
def from_wheel_file(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder, installed from a wheel by path."""
    folder = tmp_path_factory.mktemp("from_wheel_file")
    wheel.write(folder)
    return pip_install(str(folder / wheel.folder / wheel.name), target=folder / "site", cwd=folder)


@pytest.fixture(scope="module")
def from_artifact(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder, installed as an artifact's requirements install it."""
    folder = tmp_path_factory.mktemp("from_artifact")
    wheel.write(folder)
    return pip_install("--find-links", wheel.folder, "mlflow-llm-plugins", target=folder / "site", cwd=folder)


@pytest.fixture(scope="module")
def released(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's folder, installed by name from a folder with a wheel such as a release has."""
    folder = tmp_path_factory.mktemp("released")
    with zipfile.ZipFile(folder / wheel.name.replace(f"-{wheel.build}", ""), "w") as archive:
        for name, content in members(wheel).items():
            archive.writestr(name, content.replace(f"Build: {wheel.build}\n".encode(), b""))
    return pip_install("--find-links", ".", "mlflow-llm-plugins", target=folder / "site", cwd=folder)


def test_wheel_has_every_module_and_the_mark_of_a_typed_package(wheel: Wheel) -> None:
    expected = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    packed = {name for name in members(wheel) if not name.partition("/")[0].endswith(".dist-info")}
    data = {f"mlflow_llm_plugins/metrics/readability/data/{name}" for name in ("cmudict.xz", "LICENSE")}
    assert packed == expected | data | {"mlflow_llm_plugins/py.typed"}


def test_wheel_has_the_entry_points_and_the_extras(wheel: Wheel) -> None:
    assert "[mlflow.run_context_provider]\nllm = mlflow_llm_plugins.run_context:" in metadata(
        wheel, "entry_points.txt"
    )
    extras = {line for line in metadata(wheel, "METADATA").splitlines() if line.startswith("Provides-Extra: ")}
    assert {"Provides-Extra: torch", "Provides-Extra: all"} <= extras


def test_file_name_carries_version_and_build_number(wheel: Wheel) -> None:
    name, version, build, _ = parse_wheel_filename(wheel.name)

    assert (name, str(version), "".join(map(str, build))) == ("mlflow-llm-plugins", __version__, wheel.build)
    assert f"\nBuild: {wheel.build}\n" in metadata(wheel, "WHEEL")


def test_record_lists_every_file_with_its_hash_and_size(wheel: Wheel) -> None:
    packed = members(wheel)
    rows = {name: (digest, size) for name, digest, size in csv.reader(metadata(wheel, "RECORD").splitlines())}

    assert rows.keys() == packed.keys()
    for name, content in packed.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert rows[name] == (("", "") if name.endswith("/RECORD") else (f"sha256={digest}", str(len(content))))


def test_building_leaves_the_source_as_it_was(source: Path) -> None:
    def state() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in source.parent.rglob("*"))

    before = state()
    make_wheel(source)

    assert state() == before


def test_build_number_names_the_content(source: Path) -> None:
    first = make_wheel(source)
    (source / "more.py").write_text("MORE = 1\n")
    changed = make_wheel(source)
    (source / "more.py").unlink()

    assert make_wheel(source) == first
    assert changed.build != first.build
    assert changed.folder == f"wheels/{changed.build}"


def test_installed_files_make_the_wheel_they_came_from(from_wheel_file: Path, wheel: Wheel) -> None:
    again = make_wheel(from_wheel_file)

    assert again.name == wheel.name
    unordered = dict(members(again))
    record = next(name for name in unordered if name.endswith("/RECORD"))
    assert sorted(unordered.pop(record).splitlines()) == sorted(metadata(wheel, "RECORD").encode().splitlines())
    assert unordered == {name: content for name, content in members(wheel).items() if name != record}


def test_wheel_of_installed_files_does_not_say_where_they_were_installed(from_wheel_file: Path) -> None:
    assert distribution_in(from_wheel_file.parent).read_text("direct_url.json")

    content = members(make_wheel(from_wheel_file))
    assert not any(str(from_wheel_file.parent.parent).encode() in text for text in content.values())
    assert not any("__pycache__" in name for name in content)


@pytest.mark.parametrize("how", ["from_wheel_file", "from_artifact", "source"])
def test_auto_carries_what_no_index_has(how: str, request: pytest.FixtureRequest) -> None:
    package = request.getfixturevalue(how)

    assert not is_release(package)
    assert wheel_to_bundle("auto", environment_given=False, package=package) is not None
    assert wheel_to_bundle("auto", environment_given=True, package=package) is None


def test_auto_leaves_a_release_to_the_requirements(released: Path, wheel: Wheel) -> None:
    assert is_release(released)
    assert wheel_to_bundle("auto", environment_given=False, package=released) is None
    assert wheel_to_bundle(True, environment_given=False, package=released) is not None


def test_true_and_false_ask_for_nothing_else(source: Path) -> None:
    assert wheel_to_bundle(True, environment_given=True, package=source) is not None
    assert wheel_to_bundle(False, environment_given=False, package=source) is None


@pytest.mark.parametrize("value", ["yes", "AUTO", 1, None])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"bundle_plugin must be 'auto', True or False, got {value!r}"):
        wheel_to_bundle(value, environment_given=False)  # type: ignore[arg-type]


def without_setup(source: Path, _: pytest.MonkeyPatch) -> None:
    (source.parent / "setup.py").unlink()


def with_broken_setup(source: Path, _: pytest.MonkeyPatch) -> None:
    (source.parent / "setup.py").write_text("raise RuntimeError('no such extra')\n")


def with_a_setup_that_hangs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "setup.py").write_text("input_that_never_comes = __import__('threading').Event().wait()\n")
    monkeypatch.setattr(bundle, "BUILD_TIMEOUT_S", 1.0)


def without_setuptools(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "setuptools", None)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (without_setup, UnsupportedFeatureError, "has neither a setup.py nor a list of installed files"),
        (with_broken_setup, UnsupportedFeatureError, "could not be made: RuntimeError: no such extra. Install"),
        (with_a_setup_that_hangs, UnsupportedFeatureError, "setuptools did not end within 1 s"),
        (without_setuptools, MissingDependencyError, "needs setuptools: pip install 'setuptools>=77'"),
    ],
)
def test_wheel_that_cannot_be_made_is_an_error_for_true_and_a_warning_for_auto(
    source: Path,
    damage: Callable[[Path, pytest.MonkeyPatch], None],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (source / "differs.py").write_text(f"'{message}'")  # from what was built before
    damage(source, monkeypatch)

    with pytest.raises(error, match="wheel of mlflow-llm-plugins") as caught:
        wheel_to_bundle(True, environment_given=False, package=source)
    assert message in str(caught.value)

    assert wheel_to_bundle("auto", environment_given=False, package=source) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert message in caplog.text
    assert "did not come from an index, and the artifact names it by version only" in caplog.text


def test_files_that_are_gone_are_an_error_with_the_remedy(from_wheel_file: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(from_wheel_file.parent, tmp_path / "site")) / PACKAGE.name
    (package / "settings.py").unlink()

    with pytest.raises(UnsupportedFeatureError, match=r"settings\.py'\. Install the package anew"):
        make_wheel(package)


@pytest.fixture
def artifact(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "artifact"
    quantized_llm.save_model(checkpoint, path, save_pretrained=False, bundle_plugin=True)
    return path


def test_requirements_name_the_wheel_in_both_environments(artifact: Path, wheel: Wheel) -> None:
    requirements = (artifact / "requirements.txt").read_text().splitlines()
    conda = yaml.safe_load((artifact / "conda.yaml").read_text())

    assert requirements.count(PIN) == 1
    assert requirements[-1] == f"--find-links {wheel.folder}"
    assert conda["dependencies"][-1]["pip"] == requirements
    assert (artifact / wheel.folder / wheel.name).read_bytes() == wheel.content


@pytest.mark.parametrize("where", ["in the artifact", "elsewhere", "among links"])
def test_pip_finds_the_wheel_from_the_requirements(artifact: Path, tmp_path: Path, where: str) -> None:
    requirements = (artifact / "requirements.txt").read_text().splitlines()
    ours = [line for line in requirements if line.startswith(("mlflow-llm-plugins", "--find-links"))]
    (artifact / "ours.txt").write_text("\n".join(ours))
    links = tmp_path / "links"  # MLflow installs in a folder of links to what is in the artifact
    links.mkdir()
    for path in artifact.iterdir():
        (links / path.name).symlink_to(path)
    folders = {"in the artifact": (artifact, "ours.txt"), "elsewhere": (tmp_path, str(artifact / "ours.txt"))}
    cwd, file = folders.get(where, (links, "ours.txt"))

    package = pip_install("-r", file, target=tmp_path / "site", cwd=cwd)

    assert (package / "quantized_llm/load.py").is_file()
    found = distribution_in(tmp_path / "site").entry_points.select(group="mlflow.run_context_provider")
    assert "llm" in found.names


def test_mlflow_reads_the_requirements_without_an_alarm(artifact: Path) -> None:
    file = Path(mlflow.pyfunc.get_model_dependencies(str(artifact)))

    assert file == artifact / "requirements.txt"
    assert [_check_requirement_satisfied(line) for line in file.read_text().splitlines() if "plugins" in line] == [
        None
    ]
    assert _check_requirement_satisfied(file.read_text().splitlines()[-1]) is None


def written(path: Path, wheel: Wheel | None, **given: object) -> list[str]:
    arguments = {"conda_env": None, "pip_requirements": None, "extra_pip_requirements": None, **given}
    write_environment(path, ["mlflow", PIN], wheel=wheel, **arguments)  # type: ignore[arg-type]
    requirements = (path / "requirements.txt").read_text().splitlines()
    assert yaml.safe_load((path / "conda.yaml").read_text())["dependencies"][-1]["pip"] == requirements
    return requirements


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mlflow-llm-plugins", f"mlflow-llm-plugins=={__version__}"),
        ("MLflow_LLM.plugins[torch]>=0.0.1", f"MLflow_LLM.plugins[torch]=={__version__}"),
        ("mlflow-llm-plugins[all] @ https://example.com/x.whl", f"mlflow-llm-plugins[all]=={__version__}"),
    ],
)
@pytest.mark.parametrize("argument", ["pip_requirements", "conda_env"])
def test_own_line_of_the_user_is_made_to_fit_the_wheel(
    tmp_path: Path, wheel: Wheel, argument: str, line: str, expected: str
) -> None:
    given: object = ["mlflow", line, "--pre", "rich"]
    if argument == "conda_env":
        given = {"name": "mine", "dependencies": ["python=3.11", {"pip": given}]}

    lines = written(tmp_path, wheel, **{argument: given})

    assert [str(Requirement(lines[1]))] == [expected]
    assert [lines[0], *lines[2:]] == ["mlflow", "--pre", "rich", f"--find-links {wheel.folder}"]


def test_own_line_is_added_where_the_user_wrote_none(tmp_path: Path, wheel: Wheel) -> None:
    lines = written(tmp_path, wheel, pip_requirements=["mlflow", "rich"])

    assert lines == ["mlflow", "rich", PIN, f"--find-links {wheel.folder}"]


def test_without_a_wheel_requirements_stay_as_the_user_wrote_them(tmp_path: Path) -> None:
    assert written(tmp_path, None, pip_requirements=["mlflow", "rich"]) == ["mlflow", "rich"]
    assert not (tmp_path / "wheels").exists()


def test_auto_carries_nothing_for_requirements_of_the_user(checkpoint: Path, tmp_path: Path) -> None:
    quantized_llm.save_model(checkpoint, tmp_path / "a", save_pretrained=False, pip_requirements=["mlflow", "rich"])

    assert (tmp_path / "a/requirements.txt").read_text().splitlines() == ["mlflow", "rich"]
    assert not (tmp_path / "a/wheels").exists()


def test_artifact_that_must_carry_the_wheel_is_not_begun_without_it(
    checkpoint: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(source)  # takes the place of what was built before
    monkeypatch.setitem(sys.modules, "setuptools", None)

    with pytest.raises(MlflowException, match="needs setuptools: pip install 'setuptools>=77'"):
        quantized_llm.save_model(checkpoint, tmp_path / "a", bundle_plugin=True)
    assert not (tmp_path / "a").exists()

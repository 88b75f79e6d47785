"""Installing this package must cost nobody anything: what `import mlflow` loads, and who may import whom."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlflow_llm_plugins

HEAVY = (
    *("torch", "transformers", "bitsandbytes", "accelerate", "peft", "llguidance"),
    *("openvino", "openvino_genai", "openvino_tokenizers", "nncf"),
    *("textstat", "nltk", "evaluate", "sacrebleu", "rouge_score", "rapidfuzz"),
)
PACKAGE = Path(mlflow_llm_plugins.__file__).parent


def run_fresh(arguments: list[str], folder: Path, **environment: str) -> str:
    """Standard output of a fresh interpreter with a SQLite store in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=inherited | store | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


START_RUN = """
import json, sys
import mlflow
imported = sorted(sys.modules)
with mlflow.start_run() as run:
    pass
tags = mlflow.get_run(run.info.run_id).data.tags
print(json.dumps({"imported": imported, "after": sorted(sys.modules), "tags": tags}))
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> dict:
    return json.loads(run_fresh(["-c", START_RUN], tmp_path_factory.mktemp("clean")).splitlines()[-1])


PLUGGED_IN = {
    "mlflow_llm_plugins",
    "mlflow_llm_plugins.mlflow_hooks",
    "mlflow_llm_plugins.run_context",
    "mlflow_llm_plugins.errors",
    "mlflow_llm_plugins.evaluation",
    "mlflow_llm_plugins.evaluation.evaluator",
    "mlflow_llm_plugins.evaluation.invitation",
    "mlflow_llm_plugins.lookup",
}


def test_importing_mlflow_loads_of_this_package_what_is_plugged_in_alone(clean):
    ours = {name for name in clean["imported"] if name.partition(".")[0] == "mlflow_llm_plugins"}
    assert ours <= PLUGGED_IN


@pytest.mark.parametrize("when", ["imported", "after"])
def test_neither_importing_mlflow_nor_starting_a_run_loads_a_heavy_library(clean, when):
    assert [name for name in clean[when] if name.partition(".")[0] in HEAVY] == []


def test_a_run_has_the_tags_with_nothing_set_up(clean):
    assert {"llm.cpu", "llm.memory", "llm.plugins"} <= set(clean["tags"])


@pytest.fixture(params=["ImportError", "RuntimeError"])
def poisoned(request, tmp_path) -> tuple[Path, str]:
    """A folder, and a PYTHONPATH on which every heavy library raises when imported."""
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in HEAVY:
        (poison / f"{name}.py").write_text(f"raise {request.param}('{name} is broken')\n", encoding="utf-8")
    return tmp_path, os.pathsep.join([str(poison), os.environ.get("PYTHONPATH", "")])


def test_broken_libraries_leave_mlflow_and_the_tags_alone(poisoned, clean):
    folder, path = poisoned
    found = json.loads(run_fresh(["-c", START_RUN], folder, PYTHONPATH=path).splitlines()[-1])
    ours = {key: value for key, value in found["tags"].items() if key.startswith("llm.")}
    assert ours == {key: value for key, value in clean["tags"].items() if key.startswith("llm.")}


def test_broken_libraries_leave_the_command_line_alone(poisoned):
    folder, path = poisoned
    assert "version" in run_fresh(["-m", "mlflow", "--version"], folder, PYTHONPATH=path)


# Who may import whom: an area is a file or a folder right below the package.
BOTTOM = {"errors", "settings", "lookup", "hardware"}
MIDDLE = {"openai_api", "generation", "metrics"}
PLUGS = {"run_context", "quantized_llm", "serving", "evaluation", "deployments"}
TOP = {"mlflow_hooks", "cli"}
ALLOWED = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    "loadtest": BOTTOM,
    **dict.fromkeys(MIDDLE, BOTTOM),
    **dict.fromkeys(PLUGS, BOTTOM | MIDDLE),
    **dict.fromkeys(TOP, BOTTOM | MIDDLE | PLUGS),
    "__init__": set(),
}
FORBIDDEN = {
    "generation": {"mlflow"},
    "openai_api": {"mlflow", "torch", "openvino"},
    "metrics": {"torch", "transformers", "openvino"},
    "hardware": {"mlflow", "torch"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))
each_module = pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))


def area_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_by(file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, inside functions too; "from a import b" gives "a.b"."""
    package = ["mlflow_llm_plugins", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names)


def areas_imported_by(file: Path) -> set[str]:
    inner = (name.split(".")[1:2] for name in imported_by(file) if name.startswith("mlflow_llm_plugins."))
    return {
        name for names in inner for name in names if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }


@each_module
def test_dependencies_run_one_way(file):
    area = area_of(file)
    assert area in ALLOWED, f"{area} is new: give it a row in ALLOWED"
    assert areas_imported_by(file) <= ALLOWED[area] | {area}


@each_module
def test_inner_layers_do_not_know_the_outer_libraries(file):
    roots = {name.partition(".")[0] for name in imported_by(file)}
    assert not roots & FORBIDDEN.get(area_of(file), set())


def test_the_table_is_read_from_real_imports():
    seen = {area for file in MODULES for area in areas_imported_by(file)}
    assert {"errors", "lookup", "settings", "hardware"} <= seen

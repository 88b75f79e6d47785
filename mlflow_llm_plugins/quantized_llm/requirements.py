"""What an artifact needs to be loaded elsewhere: pinned from what is installed here, never by running the model."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import mlflow_llm_plugins
from mlflow_llm_plugins.generation.engines import engine_row
from mlflow_llm_plugins.quantized_llm.bundle import DISTRIBUTION, Wheel
from mlflow_llm_plugins.quantized_llm.openvino_recipes import is_openvino
from mlflow_llm_plugins.quantized_llm.quantization import PACKAGES
from mlflow_llm_plugins.quantized_llm.record import FlavorRecord, QuantizationRecord, WeightsFormat

CONDA_FILE, PYTHON_ENV_FILE, REQUIREMENTS_FILE = "conda.yaml", "python_env.yaml", "requirements.txt"
# What the transformers engine runs on. No torchvision: a text model never needs it.
ENGINE_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate")
# What the engine openvino runs on.
OPENVINO_PACKAGES = ("openvino", "openvino-genai", "openvino-tokenizers", "tokenizers", "jinja2")
Extra = Literal["torch", "openvino", "openvino-export"]
PACKAGES_OF: Mapping[Extra, tuple[str, ...]] = MappingProxyType(
    {
        "torch": ENGINE_PACKAGES,
        "openvino": OPENVINO_PACKAGES,
        "openvino-export": (*ENGINE_PACKAGES, *OPENVINO_PACKAGES, "nncf"),
    }
)


def extra_of(weights_format: WeightsFormat, quantization: QuantizationRecord | None, engine: str | None) -> Extra:
    """The extra of this package that loads an artifact.

    Args:
        weights_format: As they are stored.
        quantization: What is recorded of it.
        engine: The one that was named; "auto" needs torch alone, since it chooses among what is installed.
    """
    if weights_format == "openvino":
        return "openvino"
    is_export = quantization is not None and is_openvino(quantization.config)
    return "openvino-export" if is_export or engine_row(engine).model_format == "openvino" else "torch"


def library_versions(extra: Extra, quantization: QuantizationRecord | None) -> dict[str, str]:
    """Installed versions of what loads the artifact, without local labels such as "+cpu"."""
    quant_method = quantization.config.get("quant_method") if quantization else None
    found = {name: _installed_version(name) for name in (*PACKAGES_OF[extra], *_distributions(quant_method))}
    return {DISTRIBUTION: mlflow_llm_plugins.__version__} | {name: v for name, v in found.items() if v is not None}


def default_requirements(record: FlavorRecord, extra: Extra) -> list[str]:
    """Pinned requirements, mlflow first."""
    from mlflow import __version__ as mlflow_version

    versions = dict(record.library_versions)
    own = versions.pop(DISTRIBUTION)
    pinned = [f"{name}=={version}" for name, version in versions.items()]
    return [f"mlflow=={mlflow_version}", f"{DISTRIBUTION}[{extra}]=={own}", *sorted(pinned)]


def write_environment(
    path: Path,
    defaults: Sequence[str],
    conda_env: str | dict[str, Any] | None,
    pip_requirements: str | list[str] | None,
    extra_pip_requirements: str | list[str] | None,
    wheel: Wheel | None = None,
    extra: str = "torch",
) -> None:
    """Write conda.yaml, python_env.yaml and requirements.txt as MLflow's own flavors do, and the wheel they name."""
    from mlflow.utils.environment import (
        _CONSTRAINTS_FILE_NAME,
        _lock_requirements,
        _mlflow_conda_env,
        _overwrite_pip_deps,
        _process_conda_env,
        _process_pip_requirements,
        _PythonEnv,
    )
    from mlflow.utils.yaml_utils import write_yaml

    constraints: list[str] = []
    if conda_env is not None:
        environment, requirements, constraints = _process_conda_env(conda_env)
    elif pip_requirements is not None or extra_pip_requirements is not None:
        environment, requirements, constraints = _process_pip_requirements(
            list(defaults), pip_requirements, extra_pip_requirements
        )
    else:  # pins of what is installed need no comparison with it, for which MLflow reads all of site-packages
        requirements = _lock_requirements(list(defaults)) or list(defaults)
        environment = _mlflow_conda_env(additional_pip_deps=requirements, install_mlflow=False)
    if wheel is not None:
        wheel.write(path)
        requirements = _with_wheel(requirements, wheel, extra)
        environment = _overwrite_pip_deps(environment, requirements)
    write_yaml(str(path), CONDA_FILE, environment, overwrite=True)
    (path / REQUIREMENTS_FILE).write_text("\n".join(requirements), encoding="utf-8")
    if constraints:
        (path / _CONSTRAINTS_FILE_NAME).write_text("\n".join(constraints), encoding="utf-8")
    _PythonEnv.current().to_yaml(str(path / PYTHON_ENV_FILE))


def _with_wheel(requirements: Sequence[str], wheel: Wheel, extra: str) -> list[str]:
    """The requirements with our own line exact, added if there is none, and the folder to find it in."""
    lines = [_exact(line, wheel.version) if _names_us(line) else line for line in requirements]
    if not any(map(_names_us, requirements)):
        lines.append(f"{DISTRIBUTION}[{extra}]=={wheel.version}")
    return [*lines, f"--find-links {wheel.folder}"]


def _names_us(line: str) -> bool:
    try:
        return canonicalize_name(Requirement(line).name) == DISTRIBUTION
    except InvalidRequirement:  # an option, a path or a comment
        return False


def _exact(line: str, version: str) -> str:
    requirement = Requirement(line)
    requirement.specifier, requirement.url = SpecifierSet(f"=={version}"), None
    return str(requirement)


def _distributions(quant_method: str | None) -> list[str]:
    return [module.replace("_", "-").replace(".", "-") for module in PACKAGES.get(quant_method or "", ())]


def _installed_version(distribution: str) -> str | None:
    try:
        return Version(importlib.metadata.version(distribution)).public
    except importlib.metadata.PackageNotFoundError:
        return None

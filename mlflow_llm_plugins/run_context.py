"""The plug `mlflow.run_context_provider: llm`: tags that say on what a run was made.

`import mlflow` loads this module and creates the provider, and what they raise breaks `import mlflow` for
everybody. So nothing is looked at before MLflow first asks for the tags, and the top imports only what MLflow
has imported already.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow_llm_plugins

if TYPE_CHECKING:
    from mlflow_llm_plugins.hardware import Accelerator, Cpu

_logger = logging.getLogger(__name__)

SWITCH = "MLFLOW_LLM_RUN_CONTEXT"

# All that is read of the environment; `hardware` reads CUDA_VISIBLE_DEVICES besides, to select by. Of the
# values nothing gets into a tag but a short number.
ENVIRONMENT = (
    SWITCH,
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "KUBERNETES_SERVICE_HOST",
    "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES",
)

# Installed version as a tag; an empty one (not installed) is left out.
PACKAGES = {
    "llm.mlflow": "mlflow",
    "llm.transformers": "transformers",
    "llm.torch": "torch",
    "llm.bitsandbytes": "bitsandbytes",
    "llm.openvino": "openvino",
}

# A file that this runtime leaves in every container.
CONTAINER_MARKS = {
    "docker": ".dockerenv",
    "podman": "run/.containerenv",
    "apptainer": ".singularity.d",
}

MAX_VALUE_LENGTH = 500  # characters; what a tracking database surely holds


class LLMRunContextProvider:
    """Hardware, library versions and whereabouts of this process as tags, collected once.

    MLflow asks for them at every run, logged model and dataset. It calls these two methods and nothing else.
    Not a subclass of its `RunContextProvider`: to import that would import mlflow, and where this module came
    first, mlflow would look for this class in a half-made module, warn, and go on without it.
    """

    def __init__(self, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> None:
        """MLflow passes nothing.

        Args:
            root: Where the file system begins.
            environ: Where the variables of `ENVIRONMENT` are looked up; nothing else of it is read.
        """
        self._root = root
        self._environ = environ
        self._tags: dict[str, str] | None = None

    def in_context(self) -> bool:
        """Whether tags are wanted: always, unless `MLFLOW_LLM_RUN_CONTEXT` is 0, false, off or no."""
        return self._environ.get(SWITCH, "").strip().lower() not in {"0", "false", "off", "no"}

    def tags(self) -> dict[str, str]:
        """At most 12 tags `llm.*`, of one line and `MAX_VALUE_LENGTH` characters; none if anything fails."""
        if self._tags is None:
            self._tags = self._collect_or_nothing()
        return dict(self._tags)

    def _collect_or_nothing(self) -> dict[str, str]:
        try:
            return self._collect()
        except Exception as error:  # MLflow would warn at every single run
            _logger.debug("No llm.* tags: %r", error)
            return {}

    def _collect(self) -> dict[str, str]:
        from mlflow_llm_plugins.hardware import probe

        hardware = probe(self._root)
        environment = {name: self._environ.get(name, "") for name in ENVIRONMENT}
        tags = {
            "llm.accelerators": _accelerators(hardware.accelerators),
            "llm.cpu": _cpu(hardware.cpu),
            "llm.memory": _gibibytes(hardware.memory.total_bytes, digits=1),
            "llm.plugins": mlflow_llm_plugins.__version__,
            **{tag: _installed_version(package) for tag, package in PACKAGES.items()},
            "llm.scheduler": _kubernetes(environment, self._root) or _slurm(environment),
            "llm.container": _container(self._root),
            "llm.hub_offline": _hub_offline(environment),
        }
        return {tag: _one_line(value) for tag, value in tags.items() if value}


def _accelerators(accelerators: Iterable[Accelerator]) -> str:
    """For example "2x NVIDIA H200 (140 GiB), driver 570.86", or "none"."""
    counted = Counter(accelerators)
    names = [f"{count}x {each.name}{_in_brackets(each.memory_bytes)}" for each, count in counted.items()]
    drivers = [f"driver {driver}" for driver in sorted({each.driver for each in counted} - {""})]
    return ", ".join([*names, *drivers]) or "none"


def _cpu(cpu: Cpu) -> str:
    """For example "AMD EPYC 9654 96-Core Processor, 2 cores, AVX2 AVX-512 AVX-512-BF16"."""
    features = {
        "AVX2": cpu.has_avx2,
        "AVX-512": cpu.has_avx512,
        "AVX-512-BF16": cpu.has_avx512_bf16,
        "AMX": cpu.has_amx,
    }
    present = " ".join(name for name, has in features.items() if has)
    cores = "1 core" if cpu.cores == 1 else f"{cpu.cores} cores"
    return ", ".join(part for part in (cpu.model, cores, present) if part)


def _gibibytes(size: int, digits: int) -> str:
    return f"{size / 2**30:.{digits}f} GiB" if size else ""


def _in_brackets(size: int) -> str:
    return f" ({_gibibytes(size, digits=0)})" if size else ""


def _installed_version(package: str) -> str:
    """From the package's metadata, so that it is not imported; empty if it is not installed."""
    try:
        return importlib.metadata.version(package) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _kubernetes(environment: Mapping[str, str], root: Path) -> str:
    """For example "kubernetes pod=train-7f9c namespace=research"; a pod's host name is its own name."""
    if not environment["KUBERNETES_SERVICE_HOST"]:
        return ""
    names = {
        "pod": root / "proc/sys/kernel/hostname",
        "namespace": root / "var/run/secrets/kubernetes.io/serviceaccount/namespace",
    }
    known = [f"{key}={name}" for key, file in names.items() if (name := _dns_name(file))]
    return " ".join(["kubernetes", *known])


def _slurm(environment: Mapping[str, str]) -> str:
    """For example "slurm job=123456 nodes=2"."""
    job, nodes = _short_number(environment["SLURM_JOB_ID"]), _short_number(environment["SLURM_JOB_NUM_NODES"])
    if not job:
        return ""
    return f"slurm job={job} nodes={nodes}" if nodes else f"slurm job={job}"


def _container(root: Path) -> str:
    return next((name for name, mark in CONTAINER_MARKS.items() if os.path.exists(root / mark)), "")


def _hub_offline(environment: Mapping[str, str]) -> str:
    """By the rule of huggingface_hub 1.x, which is not imported for it."""
    value = environment["HF_HUB_OFFLINE"] or environment["TRANSFORMERS_OFFLINE"]
    return "true" if value.upper() in {"1", "ON", "YES", "TRUE"} else "false"


def _short_number(text: str) -> str:
    return text if re.fullmatch("[0-9]{1,10}", text) else ""


def _dns_name(file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""
    return text if re.fullmatch("[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", text) else ""


def _one_line(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:MAX_VALUE_LENGTH]

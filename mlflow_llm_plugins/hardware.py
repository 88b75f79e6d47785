"""What this process may use: accelerators, CPUs, memory. Never imports torch, starts CUDA or a subprocess.

`probe()` describes the machine, once a process; `granted_cpus()` and `available_memory_bytes()` look anew at
each call. What the system does not say stays empty, and nothing here raises. To add a probe: a function and
a row in `PROBES`.

Every `root` is where the file system begins: "/", but in tests.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

_logger = logging.getLogger(__name__)

ROOT = Path("/")

# A line of /proc/self/mountinfo: which part of a cgroup hierarchy is shown, at which mount point.
_CGROUP_MOUNT = re.compile(
    r"^\S+ \S+ \S+ (?P<shown>/\S*) (?P<point>/\S*) .*- cgroup(?P<version>2?) \S* (?P<options>\S+)$", re.M
)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU that this process may use."""

    name: str
    memory_bytes: int = 0  # 0: not known
    driver: str = ""  # version; "": not known
    compute_capability: tuple[int, int] | None = None  # of CUDA; None: not known


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPUs that this process may use. A feature that the system does not tell of counts as absent."""

    model: str = ""
    cores: int = 1  # granted to this process, see `granted_cpus`
    has_avx2: bool = False
    has_avx512: bool = False  # the foundation instructions, AVX-512F
    has_avx512_bf16: bool = False
    has_amx: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory."""

    total_bytes: int = 0  # physical, or the container's limit where that is smaller; 0: not known


@dataclass(frozen=True, slots=True)
class Hardware:
    """All that the probes found."""

    accelerators: tuple[Accelerator, ...] = ()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()


Part: TypeAlias = Accelerator | Cpu | Memory


def probe(root: Path = ROOT) -> Hardware:
    """Look at the hardware, once a process; later calls give the same object.

    Takes some milliseconds, more where an NVIDIA driver has to wake up.
    """
    return _probe_once(root)


@cache  # here, where `probe()` and `probe(ROOT)` are one call
def _probe_once(root: Path) -> Hardware:
    parts = [part for name in PROBES for part in _guarded(name, root)]
    return Hardware(
        accelerators=tuple(part for part in parts if isinstance(part, Accelerator)),
        cpu=next((part for part in parts if isinstance(part, Cpu)), Cpu()),
        memory=next((part for part in parts if isinstance(part, Memory)), Memory()),
    )


def granted_cpus(root: Path = ROOT) -> int:
    """How many CPUs this process may really use, at least 1.

    The smallest of its affinity mask and the CPU quotas of its cgroup and all cgroups above it. A quota of
    1.5 counts as 2, or a part of it could never be used.
    """
    return max(1, min([_affinity(), *map(math.ceil, _cpu_quotas(root))]))


def available_memory_bytes(root: Path = ROOT) -> int:
    """How many bytes this process can still allocate, neither swapping nor being killed for it; at least 0.

    The smallest of what the machine has left and what is left under the memory limits of its cgroup and all
    cgroups above it.
    """
    left = [limit - used for limit, used in _memory_limits(root)]
    return max(0, min([_machine_memory(root, "MemAvailable", "available"), *left]))


def _guarded(name: str, root: Path) -> list[Part]:
    try:
        return PROBES[name](root)
    except Exception as error:  # drivers fail in many ways, and none may stop whoever asks what there is
        _logger.debug("The hardware probe %r failed: %r", name, error)
        return []


def _nvidia(root: Path) -> list[Part]:
    devices = _nvml_devices() or _proc_devices(root)
    return [accelerator for _, accelerator in _visible(devices)]


def _nvml_devices() -> list[tuple[str, Accelerator]]:
    """UUID and description of every GPU that NVML shows; empty without nvidia-ml-py or driver."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except ImportError:
        return []
    except nvml.NVMLError as error:
        _logger.debug("NVML shows no GPU: %s", error)
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [(nvml.nvmlDeviceGetUUID(handle), _nvml_accelerator(nvml, handle)) for handle in handles]
    finally:
        nvml.nvmlShutdown()


def _nvml_accelerator(nvml: Any, handle: Any) -> Accelerator:
    return Accelerator(
        name=nvml.nvmlDeviceGetName(handle),
        memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
        driver=nvml.nvmlSystemGetDriverVersion(),
        compute_capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
    )


def _proc_devices(root: Path) -> list[tuple[str, Accelerator]]:
    """The same from the driver's files, which do not tell the memory."""
    version = _read(root / "proc/driver/nvidia/version").partition("Kernel Module")[2].split()
    driver = next((word for word in version if word[0].isdecimal()), "")
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    tables = [_table(_read(file)) for file in files]
    return [(table.get("GPU UUID", ""), Accelerator(table["Model"], driver=driver)) for table in tables]


def _visible(devices: list[tuple[str, Accelerator]]) -> list[tuple[str, Accelerator]]:
    """The devices that CUDA_VISIBLE_DEVICES leaves to this process.

    CUDA's numbers follow speed and NVML's the bus, which differ only where unlike devices share a machine.
    A device that is cut into MIG slices is described whole.
    """
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or "MIG-" in wanted:
        return devices
    chosen = []
    for entry in map(str.strip, wanted.split(",")):
        named = [
            device
            for index, device in enumerate(devices)
            if entry == str(index) or (entry.startswith("GPU-") and device[0].startswith(entry))
        ]
        if len(named) != 1:
            break  # as CUDA does: an entry that names no device hides all that follow
        chosen += named
    return chosen


def _cpu(root: Path) -> list[Part]:
    table = _table(_first_cpu(root))
    flags = set(table.get("flags", "").split())
    return [
        Cpu(
            model=" ".join(table.get("model name", "").split()) or _architecture(),
            cores=granted_cpus(root),
            has_avx2="avx2" in flags,
            has_avx512="avx512f" in flags,
            has_avx512_bf16="avx512_bf16" in flags,
            has_amx="amx_tile" in flags,
        )
    ]


def _first_cpu(root: Path) -> str:
    """The first block of /proc/cpuinfo; all of them can be a megabyte that the kernel takes long to write."""
    lines: list[str] = []
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            while (line := file.readline()).strip():
                lines.append(line)
    except OSError as error:
        _logger.debug("No /proc/cpuinfo: %s", error)
    return "".join(lines)


def _architecture() -> str:
    # not platform.processor(), which starts a subprocess
    return os.uname().machine if hasattr(os, "uname") else sysconfig.get_platform()


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory(root: Path) -> list[Part]:
    limits = [limit for limit, _ in _memory_limits(root)]
    return [Memory(total_bytes=min([_machine_memory(root, "MemTotal", "total"), *limits]))]


def _machine_memory(root: Path, key: str, psutil_key: str) -> int:
    """Bytes, from the kernel's own table, or from psutil where there is none."""
    kibibytes = _table(_read(root / "proc/meminfo")).get(key, "").removesuffix("kB").strip()
    if kibibytes.isdecimal():
        return int(kibibytes) * 1024
    import psutil

    return int(getattr(psutil.virtual_memory(), psutil_key))


PROBES: dict[str, Callable[[Path], list[Part]]] = {
    "nvidia": _nvidia,
    "cpu": _cpu,
    "memory": _memory,
}


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPUs granted by each cgroup that has a quota."""
    for group in _cgroups("cpu", root):
        v1 = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        words = (_read(group / "cpu.max") or v1).split()  # microseconds: "150000 100000", or "max 100000"
        quota, period = (*map(_number, words), None, None)[:2]
        if quota and period:
            yield quota / period


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each cgroup that has a limit; version 1 has huge ones for none."""
    for group in _cgroups("memory", root):
        limit = _number(_read(group / "memory.max") or _read(group / "memory.limit_in_bytes"))
        used = _number(_read(group / "memory.current") or _read(group / "memory.usage_in_bytes"))
        if limit is not None:
            yield limit, max(0, (used or 0) - _reclaimable_bytes(group))


def _reclaimable_bytes(group: Path) -> int:
    """File cache that the kernel drops before it kills anybody; what a process has mapped is in use."""
    lines = (line.split() for line in _read(group / "memory.stat").splitlines())
    stat = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    prefix = "total_" if "total_inactive_file" in stat else ""  # version 1: only these count the children too
    cached = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    return max(0, cached - stat.get("file_mapped", stat.get(f"{prefix}mapped_file", 0)))


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Directories of this process's cgroup and of all above it that are mounted here, in both versions."""
    own = _own_cgroups(root)
    for mount in _CGROUP_MOUNT.finditer(_read(root / "proc/self/mountinfo")):
        name = controller if mount["version"] == "" else ""
        if name in own and (not name or name in mount["options"].split(",")):
            top = root / mount["point"].lstrip("/")
            yield from _upwards(top, os.path.relpath(own[name] or "/", mount["shown"]))


def _own_cgroups(root: Path) -> dict[str, str]:
    """Controller -> this process's path in its hierarchy; the controller of version 2 is the empty string."""
    lines = (line.split(":", 2) for line in _read(root / "proc/self/cgroup").splitlines())
    return {name: line[2] for line in lines if len(line) == 3 for name in line[1].split(",")}


def _upwards(top: Path, relative: str) -> Iterator[Path]:
    """`top / relative` and its parents up to `top`; `top` alone if the relative path leads out of it."""
    inside = Path() if relative.startswith("..") else Path(relative)
    yield from (top / step for step in (inside, *inside.parents))


def _table(text: str) -> dict[str, str]:
    """Lines of "key: value"."""
    rows = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}


def _number(text: str) -> int | None:
    """None for all that is no plain number: "max", "-1", nothing."""
    return int(text) if text.strip().isdecimal() else None


def _read(path: Path) -> str:
    """The file's text, or nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # a path with a null byte is a ValueError
        return ""

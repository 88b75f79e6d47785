from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins import hardware
from mlflow_llm_plugins.hardware import (
    Accelerator,
    Cpu,
    Hardware,
    Memory,
    available_memory_bytes,
    granted_cpus,
    probe,
)

GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable:   {32 * GIB // 1024} kB\n"}
V2 = {"proc/self/mountinfo": "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"}
V1 = {
    "proc/self/mountinfo": "25 1 0:5 / /sys rw - sysfs  rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
}
CPUINFO = """\
processor\t: 0
model name\t: AMD EPYC 9654   96-Core Processor
flags\t\t: fpu sse2 avx avx2 {flags}

processor\t: 1
model name\t: another
flags\t\t: fpu
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def machine_of_64_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("cpu_max", "granted"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("20000 100000", 1),
        ("junk", 64),
        ("", 64),
    ],
)
@pytest.mark.usefixtures("machine_of_64_cpus")
def test_a_quota_of_cgroup_v2_limits_the_cpus(tmp_path, cpu_max, granted):
    root = write(tmp_path, {**V2, "proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": cpu_max})
    assert granted_cpus(root) == granted


@pytest.mark.parametrize(("quota", "granted"), [("-1", 64), ("400000", 4), ("250000", 3)])
@pytest.mark.usefixtures("machine_of_64_cpus")
def test_a_quota_of_cgroup_v1_limits_the_cpus(tmp_path, quota, granted):
    group = "sys/fs/cgroup/cpu,cpuacct/docker/c0ffee"
    files = {
        "proc/self/cgroup": "9:cpuset:/\n4:cpu,cpuacct:/docker/c0ffee\n1:name=systemd:/\n",
        f"{group}/cpu.cfs_quota_us": quota,
        f"{group}/cpu.cfs_period_us": "100000",
    }
    assert granted_cpus(write(tmp_path, V1 | files)) == granted


@pytest.mark.parametrize(
    ("own", "parent", "top", "granted"),
    [("2", "4", "8", 2), ("8", "4", "6", 4), ("max", "4", "3", 3), ("max", "max", "max", 64)],
)
@pytest.mark.usefixtures("machine_of_64_cpus")
def test_the_smallest_quota_from_the_own_cgroup_to_the_top_counts(tmp_path, own, parent, top, granted):
    def cpu_max(cpus: str) -> str:
        return f"{cpus}00000 100000".replace("max00000", "max")

    files = {
        "proc/self/cgroup": "0::/kube/pod\n",
        "sys/fs/cgroup/kube/pod/cpu.max": cpu_max(own),
        "sys/fs/cgroup/kube/cpu.max": cpu_max(parent),
        "sys/fs/cgroup/cpu.max": cpu_max(top),
        "sys/fs/cpu.max": cpu_max("1"),  # above the mount: not ours
    }
    assert granted_cpus(write(tmp_path, V2 | files)) == granted


@pytest.mark.parametrize("own_path", ["/docker/c0ffee", "/", "/../elsewhere"])
@pytest.mark.usefixtures("machine_of_64_cpus")
def test_a_container_that_sees_only_its_own_cgroup_finds_it_at_the_mount(tmp_path, own_path):
    files = {
        "proc/self/mountinfo": "9 1 0:3 /docker/c0ffee /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        "proc/self/cgroup": f"4:cpu:{own_path}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert granted_cpus(write(tmp_path, files)) == 3


@pytest.mark.usefixtures("machine_of_64_cpus")
def test_both_cgroup_versions_side_by_side_are_read(tmp_path):
    files = {
        "proc/self/mountinfo": V1["proc/self/mountinfo"]
        + V2["proc/self/mountinfo"].replace("cgroup rw", "cgroup/u rw"),
        "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "500000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/u/cpu.max": "700000 100000",
    }
    assert granted_cpus(write(tmp_path, files)) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_limits_the_cpus():
    script = (
        "import os; from mlflow_llm_plugins.hardware import granted_cpus;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(granted_cpus())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60).strip() == "1"


def test_without_cgroups_the_whole_machine_is_available(tmp_path):
    root = write(tmp_path, MACHINE)
    assert available_memory_bytes(root) == 32 * GIB
    assert probe(root).memory == Memory(total_bytes=64 * GIB)


@pytest.mark.parametrize(
    ("version", "limit_file", "use_file", "stat"),
    [
        (V2, "memory.max", "memory.current", "inactive_file {}\nactive_file {}\nfile_mapped {}\nanon 7\n"),
        (
            V1,
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "inactive_file 9\ntotal_inactive_file {}\ntotal_active_file {}\ntotal_mapped_file {}\n",
        ),
    ],
    ids=["v2", "v1"],
)
class TestMemoryLimits:
    @pytest.fixture
    def group(self, version, tmp_path):
        write(tmp_path, MACHINE | version | {"proc/self/cgroup": "4:memory:/a/b\n0::/a/b\n"})
        return "sys/fs/cgroup/a/b" if version is V2 else "sys/fs/cgroup/memory/a/b"

    def test_what_the_cgroup_has_left_is_available(self, tmp_path, group, limit_file, use_file, stat):
        write(tmp_path, {f"{group}/{limit_file}": str(8 * GIB), f"{group}/{use_file}": str(5 * GIB)})
        assert available_memory_bytes(tmp_path) == 3 * GIB
        assert probe(tmp_path).memory == Memory(total_bytes=8 * GIB)

    def test_file_cache_counts_as_free_unless_it_is_mapped(self, tmp_path, group, limit_file, use_file, stat):
        write(tmp_path, {f"{group}/{limit_file}": str(8 * GIB), f"{group}/{use_file}": str(5 * GIB)})
        write(tmp_path, {f"{group}/memory.stat": stat.format(2 * GIB, 1 * GIB, GIB // 2)})
        assert available_memory_bytes(tmp_path) == 8 * GIB - (5 * GIB - 3 * GIB + GIB // 2)

    def test_the_tightest_cgroup_above_counts(self, tmp_path, group, limit_file, use_file, stat):
        parent = str(Path(group).parent)
        write(tmp_path, {f"{group}/{limit_file}": str(16 * GIB), f"{group}/{use_file}": str(2 * GIB)})
        write(tmp_path, {f"{parent}/{limit_file}": str(20 * GIB), f"{parent}/{use_file}": str(19 * GIB)})
        assert available_memory_bytes(tmp_path) == 1 * GIB
        assert probe(tmp_path).memory == Memory(total_bytes=16 * GIB)

    @pytest.mark.parametrize("limit", ["max", "9223372036854771712", str(500 * GIB)])
    def test_a_limit_above_the_machine_changes_nothing(self, tmp_path, group, limit_file, use_file, stat, limit):
        write(tmp_path, {f"{group}/{limit_file}": limit, f"{group}/{use_file}": str(5 * GIB)})
        assert available_memory_bytes(tmp_path) == 32 * GIB
        assert probe(tmp_path).memory == Memory(total_bytes=64 * GIB)

    def test_use_beyond_the_limit_leaves_nothing(self, tmp_path, group, limit_file, use_file, stat):
        write(tmp_path, {f"{group}/{limit_file}": str(2 * GIB), f"{group}/{use_file}": str(3 * GIB)})
        assert available_memory_bytes(tmp_path) == 0


def test_the_functions_look_anew_and_the_probe_is_kept(tmp_path):
    write(tmp_path, MACHINE | V2 | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(8 * GIB)})
    first = probe(tmp_path), available_memory_bytes(tmp_path)
    write(tmp_path, {"sys/fs/cgroup/memory.max": str(4 * GIB), "sys/fs/cgroup/cpu.max": "100000 100000"})
    assert (probe(tmp_path), available_memory_bytes(tmp_path)) == (first[0], 4 * GIB)
    assert granted_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {}),
        ("avx512f", {"has_avx512": True}),
        ("avx512f avx512_bf16", {"has_avx512": True, "has_avx512_bf16": True}),
        ("avx512f amx_tile amx_int8", {"has_avx512": True, "has_amx": True}),
        ("avx512_vnni_lookalike amx", {}),
    ],
)
@pytest.mark.usefixtures("machine_of_64_cpus")
def test_the_first_cpu_tells_model_and_features(tmp_path, flags, expected):
    root = write(tmp_path, {"proc/cpuinfo": CPUINFO.format(flags=flags)})
    assert probe(root).cpu == Cpu("AMD EPYC 9654 96-Core Processor", 64, has_avx2=True, **expected)


def fake_nvml(count: int, init_error: Exception | None = None) -> SimpleNamespace:
    """As much of nvidia-ml-py as a probe may call, with `count` GPUs that differ in memory."""

    class NVMLError(Exception):
        pass

    def init() -> None:
        if init_error:
            raise NVMLError(str(init_error))

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "NVIDIA H200",
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}aaa-bbbb",
        nvmlDeviceGetCudaComputeCapability=lambda handle: (9, handle),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=handle + 1),
        nvmlSystemGetDriverVersion=lambda: "570.86",
    )


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("GPU-1aaa", [1]),
        ("1, GPU-0aaa-bbbb", [1, 0]),
        ("1,7,0", [1]),  # CUDA ignores all from the first that does not exist
        ("MIG-deadbeef", [0, 1, 2]),
    ],
)
def test_the_gpus_that_cuda_may_use_are_described(tmp_path, monkeypatch, visible, found):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(3))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = tuple(
        Accelerator("NVIDIA H200", memory_bytes=i + 1, driver="570.86", compute_capability=(9, i)) for i in found
    )
    assert probe(tmp_path).accelerators == expected


@pytest.mark.parametrize("nvml", [None, fake_nvml(0, init_error=OSError("no library"))], ids=["absent", "broken"])
def test_without_nvml_the_driver_files_name_the_gpus(tmp_path, monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs)\nGCC: 12\n"
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\nGPU UUID: \t GPU-{}\n"
    gpus = "proc/driver/nvidia/gpus"
    write(tmp_path, {"proc/driver/nvidia/version": version, f"{gpus}/0:1/information": information.format("a")})
    write(tmp_path, {f"{gpus}/0:2/information": information.format("b")})
    assert probe(tmp_path).accelerators == (Accelerator("NVIDIA H200", driver="570.86.15"),) * 2


def test_one_failing_probe_leaves_the_others_and_a_debug_line(tmp_path, monkeypatch, caplog):
    def broken(root: Path) -> list[hardware.Part]:
        raise RuntimeError("driver mismatch")

    monkeypatch.setitem(hardware.PROBES, "cpu", broken)
    caplog.set_level(logging.DEBUG, logger=hardware.__name__)
    root = write(tmp_path, MACHINE)
    assert (probe(root).cpu, probe(root).memory) == (Cpu(), Memory(total_bytes=64 * GIB))
    lines = [record for record in caplog.records if "'cpu' failed" in record.message]
    assert [(line.levelname, "driver mismatch" in line.message) for line in lines] == [("DEBUG", True)]


@pytest.mark.parametrize("missing", [("sched_getaffinity",), ("sched_getaffinity", "uname")], ids=["macos", "windows"])
def test_a_system_without_proc_and_cgroups_is_described_by_what_it_has(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for name in missing:
        monkeypatch.delattr(os, name, raising=False)
    found = probe(tmp_path)
    assert found == Hardware((), Cpu(found.cpu.model, os.cpu_count()), Memory(psutil.virtual_memory().total))
    assert found.cpu.model
    assert 0 < available_memory_bytes(tmp_path) < found.memory.total_bytes


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*MACHINE, *V2, "proc/self/cgroup", "proc/cpuinfo"]), st.text()),
    st.text(),
)
def test_nothing_raises_whatever_the_files_hold(files, garbage):
    with tempfile.TemporaryDirectory() as folder:
        group = {"sys/fs/cgroup/cpu.max": garbage, "sys/fs/cgroup/memory.max": garbage}
        root = write(Path(folder), V2 | {"proc/self/cgroup": "0::/\n"} | group | files)
        assert granted_cpus(root) >= 1
        assert available_memory_bytes(root) >= 0
        assert probe(root).cpu.cores >= 1


def test_the_probe_finds_this_machine():
    found = probe()
    assert found.cpu.cores == granted_cpus()
    assert available_memory_bytes() <= found.memory.total_bytes <= psutil.virtual_memory().total
    assert found.cpu.model

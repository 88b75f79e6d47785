from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlflow_llm_plugins
from mlflow_llm_plugins import hardware, run_context
from mlflow_llm_plugins.hardware import Accelerator
from mlflow_llm_plugins.run_context import ENVIRONMENT, LLMRunContextProvider

GIB = 2**30
TAGS = {
    "llm.accelerators",
    "llm.cpu",
    "llm.memory",
    "llm.plugins",
    "llm.mlflow",
    "llm.transformers",
    "llm.torch",
    "llm.bitsandbytes",
    "llm.openvino",
    "llm.scheduler",
    "llm.container",
    "llm.hub_offline",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
POD = {
    "proc/sys/kernel/hostname": "train-7f9c\n",
    "var/run/secrets/kubernetes.io/serviceaccount/namespace": "research",
}


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def experiment_id(tmp_path_factory) -> Iterator[str]:
    """A new experiment in a new SQLite tracking store."""
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", before)  # set_tracking_uri changes it
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        yield mlflow.create_experiment("tags", artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_tracking_uri(before)


def tags_of_a_run(experiment_id: str) -> dict[str, str]:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        return mlflow.get_run(run.info.run_id).data.tags


def tags_of_a_logged_model(experiment_id: str) -> dict[str, str]:
    model = mlflow.initialize_logged_model(name="chat", experiment_id=experiment_id)
    return mlflow.get_logged_model(model.model_id).tags


def tags_of_a_dataset(experiment_id: str) -> dict[str, str]:
    with mlflow.start_run(experiment_id=experiment_id) as run:
        # the store keeps one copy of equal datasets, so each has its own content
        mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"prompt": [run.info.run_id]})))
    logged = mlflow.get_run(run.info.run_id).inputs.dataset_inputs[0].dataset
    return json.loads(logged.source)["tags"]


each_maker = pytest.mark.parametrize("make", [tags_of_a_run, tags_of_a_logged_model, tags_of_a_dataset])


@each_maker
def test_runs_logged_models_and_datasets_carry_the_tags(make, experiment_id, monkeypatch):
    monkeypatch.delenv("MLFLOW_LLM_RUN_CONTEXT", raising=False)
    ours = {key: value for key, value in make(experiment_id).items() if key.startswith("llm.")}
    assert {"llm.accelerators", "llm.cpu", "llm.memory", "llm.hub_offline"} <= set(ours) <= TAGS
    assert ours["llm.mlflow"] == importlib.metadata.version("mlflow")
    assert ours["llm.plugins"] == mlflow_llm_plugins.__version__


@each_maker
def test_the_switch_keeps_all_tags_away(make, experiment_id, monkeypatch):
    monkeypatch.setenv("MLFLOW_LLM_RUN_CONTEXT", "0")
    assert not [key for key in make(experiment_id) if key.startswith("llm.")]


def test_runs_can_be_found_by_a_library_version(experiment_id):
    tags_of_a_run(experiment_id)

    def found(version: str) -> int:
        return len(mlflow.search_runs([experiment_id], filter_string=f"tags.`llm.mlflow` = '{version}'"))

    assert found(importlib.metadata.version("mlflow")) >= 1
    assert found("0.1") == 0


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, True), ("", True), ("1", True), ("yes", True)]
    + [(off, False) for off in ("0", "false", "False", "OFF", "no", " 0 ")],
)
def test_the_switch_reads_the_usual_words(value, wanted):
    environ = {} if value is None else {"MLFLOW_LLM_RUN_CONTEXT": value}
    assert LLMRunContextProvider(environ=environ).in_context() is wanted


def test_at_most_twelve_short_tags_of_one_line_even_on_an_odd_machine(tmp_path):
    marks = dict.fromkeys(run_context.CONTAINER_MARKS.values(), "")
    cpuinfo = {"proc/cpuinfo": f"model name : Evil\x1b[31m\tCPU\u200b {'9' * 900}\nflags : avx2\n"}
    environ = KUBERNETES | {"SLURM_JOB_ID": "1", "HF_HUB_OFFLINE": "1"}
    tags = LLMRunContextProvider(write(tmp_path, marks | POD | cpuinfo), environ).tags()
    assert set(tags) <= TAGS
    assert len(TAGS) <= 12
    assert all(type(value) is str and value.isprintable() for value in tags.values())
    assert all(0 < len(value) <= 500 for value in tags.values())
    assert tags["llm.cpu"].startswith("Evil [31m CPU 999")


@pytest.mark.parametrize(
    ("accelerators", "expected"),
    [
        ([], "none"),
        ([Accelerator("NVIDIA H200", 140 * GIB, "570.86")], "1x NVIDIA H200 (140 GiB), driver 570.86"),
        ([Accelerator("A", 80 * GIB, "1.2")] * 2, "2x A (80 GiB), driver 1.2"),
        ([Accelerator("A", 80 * GIB, "1.2"), Accelerator("B")], "1x A (80 GiB), 1x B, driver 1.2"),
    ],
)
def test_accelerators_are_counted_by_kind(tmp_path, monkeypatch, accelerators, expected):
    monkeypatch.setitem(hardware.PROBES, "nvidia", lambda root: accelerators)
    assert LLMRunContextProvider(tmp_path, {}).tags()["llm.accelerators"] == expected


@pytest.mark.parametrize(
    ("flags", "cores", "expected"),
    [
        ("avx2", 1, "Xeon, 1 core, AVX2"),
        ("", 2, "Xeon, 2 cores"),
        ("avx2 avx512f avx512_bf16 amx_tile", 8, "Xeon, 8 cores, AVX2 AVX-512 AVX-512-BF16 AMX"),
    ],
)
def test_the_cpu_is_named_with_cores_and_features(tmp_path, monkeypatch, flags, cores, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    files = {"proc/cpuinfo": f"model name : Xeon\nflags : {flags}\n", "proc/meminfo": "MemTotal: 24117248 kB\n"}
    tags = LLMRunContextProvider(write(tmp_path, files), {}).tags()
    assert (tags["llm.cpu"], tags["llm.memory"]) == (expected, "23.0 GiB")


@pytest.mark.parametrize(
    ("environ", "files", "expected"),
    [
        ({}, POD, None),
        (KUBERNETES, POD, "kubernetes pod=train-7f9c namespace=research"),
        (KUBERNETES, {}, "kubernetes"),
        (KUBERNETES, {"proc/sys/kernel/hostname": "Secret Token!"}, "kubernetes"),
        ({"SLURM_JOB_ID": "123456"}, {}, "slurm job=123456"),
        ({"SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "2"}, {}, "slurm job=123456 nodes=2"),
        ({"SLURM_JOB_ID": "123456", "SLURM_JOB_NUM_NODES": "two"}, {}, "slurm job=123456"),
        (KUBERNETES | {"SLURM_JOB_ID": "7"}, {}, "kubernetes"),
    ],
)
def test_the_scheduler_tells_which_job_this_is(tmp_path, environ, files, expected):
    assert LLMRunContextProvider(write(tmp_path, files), environ).tags().get("llm.scheduler") == expected


@pytest.mark.parametrize("value", ["", "hf_aBcDeF", "12 34", "12\n", "1" * 11, "１２３", "-1", "0x1f"])
def test_a_job_id_that_is_no_short_number_is_left_out(tmp_path, value):
    environ = {"SLURM_JOB_ID": value, "SLURM_JOB_NUM_NODES": "1"}
    assert "llm.scheduler" not in LLMRunContextProvider(tmp_path, environ).tags()


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (".dockerenv", "docker"),
        ("run/.containerenv", "podman"),
        (".singularity.d/runscript", "apptainer"),
        ("etc/hosts", None),
    ],
)
def test_a_container_is_known_by_its_mark(tmp_path, mark, expected):
    assert LLMRunContextProvider(write(tmp_path, {mark: ""}), {}).tags().get("llm.container") == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "false"),
        ({"HF_HUB_OFFLINE": "1"}, "true"),
        ({"HF_HUB_OFFLINE": "true"}, "true"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, "true"),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, "false"),
        ({"HF_HUB_OFFLINE": "hf_secret"}, "false"),
    ],
)
def test_offline_mode_follows_the_hub_librarys_own_rule(tmp_path, environ, expected):
    assert LLMRunContextProvider(tmp_path, environ).tags()["llm.hub_offline"] == expected


def test_a_package_that_is_not_installed_has_no_tag(tmp_path, monkeypatch):
    monkeypatch.setitem(run_context.PACKAGES, "llm.torch", "no-such-package")
    tags = LLMRunContextProvider(tmp_path, {}).tags()
    assert "llm.torch" not in tags
    assert "llm.mlflow" in tags


def test_tags_are_collected_once_and_handed_out_as_copies(tmp_path):
    environ = {"SLURM_JOB_ID": "1"}
    provider = LLMRunContextProvider(tmp_path, environ)
    first = provider.tags()
    expected = dict(first)
    first.clear()
    environ["SLURM_JOB_ID"] = "2"
    assert provider.tags() == expected


def test_a_failure_gives_no_tags_and_one_debug_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(run_context.PACKAGES, "llm.torch", "")  # importlib.metadata refuses an empty name
    caplog.set_level(logging.DEBUG, logger=run_context.__name__)
    provider = LLMRunContextProvider(tmp_path, {})
    assert (provider.tags(), provider.tags()) == ({}, {})
    assert [(line.levelname, line.message) for line in caplog.records] == [
        ("DEBUG", "No llm.* tags: ValueError('A distribution name is required.')")
    ]


class RecordingEnviron(Mapping[str, str]):
    """An environment that holds anything, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return "1"

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the environment was listed")

    def __len__(self) -> int:
        return 1


def test_only_the_listed_variables_are_read(tmp_path):
    environ = RecordingEnviron()
    provider = LLMRunContextProvider(tmp_path, environ)
    assert provider.in_context()
    assert provider.tags()
    assert environ.asked == set(ENVIRONMENT)


# A secret is anything that is no bare number: of a number nobody can tell that it is no job id.
secrets = st.one_of(
    st.text(min_size=8, max_size=80).filter(lambda text: not re.fullmatch(r"\s*[0-9]*\s*", text)),
    st.from_regex(r"(hf_|sk-|ghp_|AKIA)[A-Za-z0-9]{16,40}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{12,64}", fullmatch=True).filter(lambda text: not text.isdecimal()),
    st.from_regex(r"[0-9]{4,8}[a-z]{4,8}", fullmatch=True),
)
names = st.one_of(
    st.sampled_from([*ENVIRONMENT, "HF_TOKEN", "POD_NAME", "HOSTNAME", "SLURM_JOB_NODELIST", "DATABASE_URL"]),
    st.from_regex(r"(SLURM|HF|KUBERNETES|MLFLOW_LLM|LLM)_[A-Z_]{1,20}", fullmatch=True),
    st.text(min_size=1, max_size=40),
)


@settings(max_examples=150, deadline=None)
@given(planted=st.dictionaries(names, secrets, min_size=1, max_size=12))
def test_secrets_in_the_environment_never_appear(planted):
    tags = LLMRunContextProvider(environ=planted).tags()
    assert tags
    without = LLMRunContextProvider(environ=dict.fromkeys({"KUBERNETES_SERVICE_HOST"} & set(planted), "x")).tags()
    assert tags == without


def test_secrets_in_the_real_environment_never_appear(monkeypatch):
    for name in [*ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HOSTNAME", "POD_NAME", "USER"]:
        monkeypatch.setenv(name, f"hunter2-{name.lower()}")
    tags = LLMRunContextProvider().tags()
    assert tags
    assert "hunter2" not in str(tags)


def in_a_fresh_process(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_collecting_starts_no_process_and_opens_no_connection():
    output = in_a_fresh_process(
        "import sys\n"
        "from mlflow_llm_plugins.run_context import LLMRunContextProvider\n"
        "events = set()\n"
        "sys.addaudithook(lambda event, arguments: events.add(event))\n"
        "assert LLMRunContextProvider().tags()\n"
        "forbidden = ('subprocess.', 'os.fork', 'os.posix_spawn', 'os.exec', 'os.system', 'socket.')\n"
        "print('open' in events, sorted(e for e in events if e.startswith(forbidden)))\n"
    )
    assert output.strip() == "True []"


def test_mlflow_finds_the_provider_though_this_package_was_imported_first():
    output = in_a_fresh_process(
        "import mlflow_llm_plugins.run_context\n"
        "from mlflow.tracking.context.registry import resolve_tags\n"
        "print('llm.cpu' in resolve_tags())\n"
    )
    assert output.strip() == "True"

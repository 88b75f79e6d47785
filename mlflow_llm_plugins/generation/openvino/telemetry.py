"""No reports of use to Intel: what this package does with OpenVINO sends nothing and writes nothing at home.

Importing openvino, converting a model and nncf report through the package openvino-telemetry (2025.2), for which
consent counts as given unless a file in the home directory says otherwise. Besides those of CI systems there is no
variable that refuses.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_INSTANCE = "_SingletonMetaClass__single_instance"  # of the class: the object that reports for the process
_lock = threading.Lock()
_inside = 0  # threads in the block below
_undo: list[tuple[Any, str, Any]] = []  # object, attribute, value before


@contextmanager
def telemetry_refused() -> Iterator[None]:
    """Refuse openvino's telemetry in this process until the block ends; imports of openvino and nncf belong inside.

    Thread safe; the consent that was there is there again afterwards.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _refuse()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore()


def _refuse() -> None:
    try:
        from openvino_telemetry.main import Telemetry
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker
    except ImportError:  # then nothing reports
        return
    _set(OptInChecker, "check", lambda *_, **__: ConsentCheckResult.DECLINED)
    # One object for the process, which remembers the consent. Where there is none yet, the one that is made inside
    # is dropped again, so that others are asked anew.
    made = getattr(Telemetry, _INSTANCE, None)
    _set(Telemetry, _INSTANCE, made)
    reporting = [made, getattr(sys.modules.get("nncf.telemetry.wrapper"), "telemetry", None)]
    for reporter in reporting:
        reporter = getattr(reporter, "_impl", reporter)  # nncf's wraps the object that it was made with
        if hasattr(reporter, "consent"):
            _set(reporter, "consent", False)


def _set(owner: Any, attribute: str, value: Any) -> None:
    _undo.append((owner, attribute, getattr(owner, attribute, None)))
    setattr(owner, attribute, value)


def _restore() -> None:
    while _undo:
        setattr(*_undo.pop())

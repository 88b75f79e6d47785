"""Which transformers the engine was tested with: it stands on parts that the library does not promise to keep."""

from __future__ import annotations

import functools
import logging

import transformers
from packaging.version import Version

_logger = logging.getLogger(__name__)

NEWEST_TESTED = "5.23"


@functools.cache
def warn_if_untested(installed: str = transformers.__version__) -> None:
    """Warn, once a process, where transformers is of a later minor release than the newest tested one."""
    if Version(installed).release[:2] > Version(NEWEST_TESTED).release:
        _logger.warning(
            "transformers %s is newer than %s, the newest that this package was tested with. If the engine fails to "
            "open or falls back, install an older one.",
            installed,
            NEWEST_TESTED,
        )

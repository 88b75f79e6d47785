"""A transformers that nobody has tried with this package is named once."""

import logging

import pytest
import transformers

from mlflow_llm_plugins.generation.versions import NEWEST_TESTED, warn_if_untested


@pytest.mark.parametrize(("version", "warnings"), [("5.20.0", 0), ("5.23.9", 0), ("5.24.0", 1), ("6.0.0.dev0", 1)])
def test_only_a_later_minor_release_is_named_and_only_once(version, warnings, caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_untested(version)
        warn_if_untested(version)
    assert len(caplog.records) == warnings
    assert all(f"transformers {version} is newer than {NEWEST_TESTED}" in r.getMessage() for r in caplog.records)


def test_the_installed_transformers_is_a_tested_one(caplog):
    warn_if_untested(transformers.__version__)
    assert not caplog.records

"""Names lead to objects, and typos to what was meant."""

import collections

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean, resolve

TABLE = {"ordered": "collections:OrderedDict", "broken": "collections:Nothing"}


def test_a_name_of_the_table_gives_its_object():
    assert resolve("ordered", TABLE, "dict") is collections.OrderedDict


def test_a_path_from_outside_gives_its_object():
    assert resolve("collections:Counter", TABLE, "dict") is collections.Counter


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known():
    with pytest.raises(InvalidInputError) as error:
        resolve("ordred", TABLE, "dict")
    assert str(error.value) == (
        "Unknown dict 'ordred'. Did you mean 'ordered'? Known: broken, ordered; "
        "or 'package.module:Name' for one of your own."
    )


@pytest.mark.parametrize("path", ["no_such_package.module:Name", "collections:NoSuchName"])
def test_a_path_that_leads_nowhere_is_refused(path):
    with pytest.raises(InvalidInputError, match=f"dict '{path}' cannot be loaded: "):
        resolve(path, TABLE, "dict")


def test_a_fault_of_a_built_in_row_is_not_the_callers():
    with pytest.raises(AttributeError):
        resolve("broken", TABLE, "dict")


def test_nothing_near_gives_no_suggestion():
    assert did_you_mean("xyz", TABLE) == ""

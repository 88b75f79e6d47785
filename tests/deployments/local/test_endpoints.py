"""Endpoints: shares of traffic over deployments."""

from __future__ import annotations

from collections import Counter

import pytest

from mlflow_llm_plugins.deployments.local.endpoints import Endpoint, Endpoints
from mlflow_llm_plugins.errors import InvalidInputError, ResourceExistsError, ResourceNotFoundError


@pytest.fixture
def endpoints(home, recorded) -> Endpoints:
    for name in ("a", "b"):
        recorded(name)
    return Endpoints(home)


def test_an_endpoint_is_remembered(endpoints, home):
    endpoints.create("e", {"traffic": "a=90,b=10"})
    assert Endpoints(home).get("e").traffic == {"a": 90.0, "b": 10.0}
    assert [endpoint.name for endpoint in Endpoints(home).list()] == ["e"]


def test_requests_follow_the_shares(endpoints):
    endpoint = endpoints.create("e", {"traffic": {"a": 3, "b": 1}})
    drawn = Counter(endpoint.draw({"a", "b"}) for _ in range(4000))
    assert 2700 < drawn["a"] < 3300
    assert drawn["a"] + drawn["b"] == 4000


def test_a_deployment_that_is_down_gets_nothing(endpoints):
    endpoint = endpoints.create("e", {"traffic": {"a": 99, "b": 1}})
    assert {endpoint.draw({"b"}) for _ in range(50)} == {"b"}
    assert endpoint.draw(set()) is None


def test_a_share_of_nothing_gets_nothing(endpoints):
    endpoint = endpoints.create("e", {"traffic": {"a": 0, "b": 1}})
    assert {endpoint.draw({"a", "b"}) for _ in range(50)} == {"b"}


def test_the_first_deployment_under_an_endpoint_gets_all_and_a_later_one_nothing_yet(endpoints):
    endpoints.create("e", {})
    endpoints.add("e", "a")
    endpoints.add("e", "b")
    assert endpoints.get("e").traffic == {"a": 100.0, "b": 0.0}
    endpoints.add("e", "a")
    assert endpoints.get("e").traffic == {"a": 100.0, "b": 0.0}


def test_a_deployment_that_is_gone_leaves_its_endpoints(endpoints):
    endpoints.create("e", {"traffic": "a=90,b=10"})
    endpoints.forget("a")
    assert endpoints.get("e").traffic == {"b": 10.0}


def test_an_update_replaces_the_shares_or_nothing(endpoints):
    endpoints.create("e", {"traffic": "a=90,b=10"})
    assert endpoints.update("e", {}).traffic == {"a": 90.0, "b": 10.0}
    assert endpoints.update("e", {"traffic": "b=1"}).traffic == {"b": 1.0}


def test_names_that_are_taken_or_unknown_are_refused(endpoints):
    endpoints.create("e", {})
    with pytest.raises(ResourceExistsError, match="Endpoint 'e' exists already"):
        endpoints.create("e", {})
    with pytest.raises(ResourceNotFoundError, match=r"no endpoint 'f'.*There are: e"):
        endpoints.get("f")
    with pytest.raises(ResourceNotFoundError, match="no deployment 'c'"):
        endpoints.update("e", {"traffic": "c=1"})
    with pytest.raises(InvalidInputError, match="one share at least must be above 0"):
        endpoints.update("e", {"traffic": "a=0"})
    with pytest.raises(InvalidInputError, match=r"unknown key 'trafic'. Did you mean 'traffic'"):
        endpoints.update("e", {"trafic": "a=1"})


def test_deleting_twice_is_no_error(endpoints):
    endpoints.create("e", {})
    endpoints.delete("e")
    endpoints.delete("e")
    assert endpoints.list() == []


def test_a_damaged_endpoint_is_in_nobodys_way(endpoints, home, caplog):
    endpoints.create("e", {"traffic": "a=1"})
    (home.endpoints / "bad.json").write_text("{")
    assert [endpoint.name for endpoint in endpoints.list()] == ["e"]
    assert "mlflow deployments delete-endpoint" in caplog.text
    endpoints.forget("a")
    endpoints.delete("bad")
    assert [path.name for path in home.endpoints.iterdir()] == ["e.json"]


def test_an_endpoint_without_deployments_has_nobody_to_ask():
    assert Endpoint(name="e", traffic={}, created=0, updated=0).draw(()) is None

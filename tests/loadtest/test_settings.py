"""What cannot be measured is refused before it starts."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest import Load, Objective, Target

URL = "http://localhost:1"


@pytest.mark.parametrize("url", ["localhost:5000", "ftp://host", "http://", ""])
def test_address_must_be_of_http(url):
    with pytest.raises(InvalidInputError) as error:
        Target.parse({"url": url}, "options")
    assert str(error.value) == f"options: url={url!r}: must look like http://127.0.0.1:5001"


@pytest.mark.parametrize("url", ["http://me:key@host", "http://host?key=1", "http://host#x"])
def test_address_must_not_carry_a_key(url):
    with pytest.raises(InvalidInputError, match="must be an address alone; an API key comes from the variable"):
        Target.parse({"url": url}, "options")


@pytest.mark.parametrize("path", ["/v1/embeddings", "v1/completions", "/"])
def test_path_must_lead_to_a_known_route(path):
    with pytest.raises(InvalidInputError) as error:
        Target.parse({"url": URL, "path": path}, "options")
    known = "/chat/completions, /completions, /invocations"
    assert str(error.value) == f"options: path={path!r}: must start with a slash and end in one of {known}"


@pytest.mark.parametrize(
    ("path", "stream", "streams"),
    [
        ("/v1/chat/completions", True, True),
        ("/invocations/v1/completions", True, True),
        ("/v1/completions", False, False),
        ("/invocations", True, False),
    ],
)
def test_answers_stream_where_they_are_asked_to_and_the_route_can(path, stream, streams):
    assert Target(url=URL, path=path, stream=stream).streams is streams


@pytest.mark.parametrize("given", [{}, {"clients": 2, "rate": 1.0}])
def test_load_has_one_rhythm(given):
    with pytest.raises(InvalidInputError) as error:
        Load.parse(given, "options")
    got = f"clients={given.get('clients')} and rate={given.get('rate')}"
    assert f"give either clients or rate, got {got}" in str(error.value)


@pytest.mark.parametrize("given", [{"clients": 0}, {"rate": 0}, {"rate": "inf"}, {"clients": 1, "requests": 0}])
def test_counts_and_rates_are_positive_and_finite(given):
    with pytest.raises(InvalidInputError, match="options: "):
        Load.parse(given, "options")


def test_objective_is_read_from_text():
    assert Objective.from_text("ttft=0.5, e2el=5").limits() == {"ttft": 0.5, "e2el": 5.0}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ttft", "goodput must look like ttft=0.5,tpot=0.1,e2el=5 (seconds), got 'ttft'."),
        ("", "goodput must look like ttft=0.5,tpot=0.1,e2el=5 (seconds), got ''."),
        ("tttf=1", "unknown key 'tttf'. Did you mean 'ttft'?"),
        ("ttft=fast", "ttft='fast': "),
        ("ttft=0", "ttft='0': "),
    ],
)
def test_objective_of_another_form_is_refused(text, problem):
    with pytest.raises(InvalidInputError) as error:
        Objective.from_text(text)
    assert problem in str(error.value)

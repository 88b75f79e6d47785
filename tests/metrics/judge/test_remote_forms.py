"""What a user gives as a judge becomes the backend that it means, or a message that says what can be given."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import resolve
from mlflow_llm_plugins.metrics.judge.backends import JUDGES, backend_of
from mlflow_llm_plugins.metrics.judge.backends.deployment import DeploymentJudge
from mlflow_llm_plugins.metrics.judge.backends.function import FunctionJudge
from mlflow_llm_plugins.metrics.judge.backends.local import LocalJudge
from mlflow_llm_plugins.metrics.judge.backends.mlflow_judge import MlflowJudge
from mlflow_llm_plugins.metrics.judge.backends.server import ServerJudge
from mlflow_llm_plugins.metrics.judge.question import Opinion
from tests.metrics.judge.remote_server import a_question


class OwnJudge:
    def ask(self, questions, *, rationale=False, progress=True):
        return [Opinion(choice=0) for _ in questions]

    def describe(self):
        return {}

    def close(self):
        pass


OWN = OwnJudge()


def make_function():
    return lambda text: "Yes"


def says_yes(text):
    return "Yes"


class Sayer:
    def __call__(self, text):
        return "Yes"


SAYER = Sayer()


class Sized:
    def __init__(self, size):
        self.size = size


def takes_two(text, options):
    return "Yes"


def make_string():
    return "openai:/gpt-4o"


@pytest.mark.parametrize(
    ("judge", "kind"),
    [
        ("models:/judge/1", LocalJudge),
        ("models:/judge@champion", LocalJudge),
        ("runs:/0123456789abcdef/model", LocalJudge),
        ("m-0123456789abcdef0123456789abcdef", LocalJudge),
        ("deployments:/judge", DeploymentJudge),
        ("endpoints:/judge", DeploymentJudge),
        ("http://127.0.0.1:5001/v1#chat", ServerJudge),
        ("HTTPS://api.example.com/v1", ServerJudge),
        ({"url": "http://127.0.0.1:5001", "model": "chat"}, ServerJudge),
        ({"uri": "openai:/gpt-4o", "max_in_flight": "3"}, MlflowJudge),
        ({"uri": "deployments:/judge", "target": "local"}, DeploymentJudge),
        ("openai:/gpt-4o", MlflowJudge),
        ("ollama:/qwen3:0.6b", MlflowJudge),
        ("gateway:/judge", MlflowJudge),
        ("databricks", MlflowJudge),
        (len, FunctionJudge),
        (f"{__name__}:OwnJudge", OwnJudge),
        (f"{__name__}:OWN", OwnJudge),
        (f"{__name__}:make_function", FunctionJudge),
        (f"{__name__}:says_yes", FunctionJudge),
        (f"{__name__}:SAYER", FunctionJudge),
        (f"{__name__}:Sayer", FunctionJudge),
        ("builtins:len", FunctionJudge),
        (OWN, OwnJudge),
    ],
)
def test_each_form_means_its_backend(judge, kind):
    assert type(backend_of(judge)) is kind


def test_an_object_that_implements_the_protocol_is_used_as_it_is():
    assert backend_of(OWN) is OWN


@pytest.mark.parametrize("name", ["make_function", "says_yes", "SAYER", "Sayer"])
def test_a_function_by_its_path_is_asked_and_a_factory_is_called_first(name):
    (opinion,) = backend_of(f"{__name__}:{name}").ask([a_question()], progress=False)
    assert (opinion.choice, opinion.error) == (0, None)


def make_mlflow_judge():
    from mlflow.genai.judges import make_judge

    return make_judge(name="v", instructions="Judge {{ outputs }}", model="openai:/gpt-4o")


def make_mlflow_scorer():
    from mlflow.genai import scorer

    return scorer(lambda outputs: 1)


@pytest.mark.parametrize(
    "judge",
    [make_mlflow_judge, make_mlflow_scorer, f"{__name__}:make_mlflow_judge"],
)
def test_a_scorer_of_mlflow_is_told_what_to_give_in_its_place(judge):
    with pytest.raises(InvalidInputError) as told:
        backend_of(judge if isinstance(judge, str) else judge())
    assert "is a scorer of MLflow, which asks a question of its own" in str(told.value)
    assert "its model, such as 'openai:/gpt-4o', as judge and its instructions as criteria" in str(told.value)


def test_a_directory_with_a_model_is_a_judge_in_this_process_and_one_without_is_none(tmp_path):
    with pytest.raises(InvalidInputError, match="There is no MLmodel in that directory"):
        backend_of(str(tmp_path))
    (tmp_path / "MLmodel").touch()
    assert isinstance(backend_of(tmp_path), LocalJudge)


def test_every_row_of_the_table_can_be_imported():
    for kind in JUDGES:
        judge = resolve(kind, JUDGES, "judge")
        assert all(hasattr(judge, name) for name in ("ask", "describe", "close"))


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("modles:/judge", "Did you mean 'models'?"),
        ("opnai:/gpt-4o", "Did you mean 'openai'?"),
        ("endpoint:/judge", "Did you mean 'endpoints'?"),
        ("models:judge/1", "Did you mean 'models:/judge/1'?"),
        ("gpt-4o", "'http://host:port/v1#model'"),
        ("", "'http://host:port/v1#model'"),
        (5, "judge=int cannot be asked"),
        (None, "judge=NoneType cannot be asked"),
        ("deployments:/", "names no deployment"),
        ("http://", "is no http or https URL"),
        ("http://host:port/v1", "cannot be read"),
        ("http://host/v1?model=a#b", "names two models"),
        ({"url": "http://h/v1#a", "model": "b"}, "names model 'a', the settings 'b'"),
        ({"url": "http://h/v1", "modle": "b"}, "Did you mean 'model'?"),
        ({"url": "http://h/v1", "timeout_s": 0}, "timeout_s=0"),
        ({"url": "http://h/v1", "route": "chats"}, "route='...': Input should be 'systemone', 'decisions' or 'chat'"),
        ({"url": "http://h/v1", "uri": "x"}, "either 'url' or 'uri'"),
        ({"url": 5}, "either 'url' or 'uri'"),
        ({}, "its keys are: none"),
        ({"uri": "models:/judge/1", "timeout_s": 3}, "has no settings here, got 'timeout_s'"),
        ("no.such.module:judge", "cannot be loaded"),
        (f"{__name__}:make_string", "gave a str; it must give a backend or a function"),
        (f"{__name__}:Sized", "cannot be made without arguments; it takes (size)"),
        (f"{__name__}:takes_two", "takes_two takes (text, options), and a judge is called with one argument"),
        (takes_two, "takes_two takes (text, options), and a judge is called with one argument"),
        (lambda: "Yes", "<lambda> takes (), and a judge is called with one argument"),
        (lambda *, text: "Yes", "takes (*, text), and a judge is called with one argument"),
    ],
)
def test_what_is_no_judge_is_told_what_is(judge, words):
    with pytest.raises(InvalidInputError) as told:
        backend_of(judge)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "judge",
    [
        "http://user:sk-secret@host/v1",
        "http://sk-secret@host/v1",
        "http://user:sk-sec/ret@host/v1",
        "http://host/v1?key=sk-secret",
        "http://host/v1?sk-secret",
        "htp://sk-secret@h",
        "htp://me:sk-sec/ret@h",
        "s3://me:sk-secret@bucket/model",
        {"url": "ftp://me:sk-secret@h/v1"},
        {"url": "ftp://h/sk-secret"},
        {"url": "http://h/v1", "api_key_env": "sk-secret"},
        {"url": "http://h/v1", "timeout_s": "sk-secret"},
        {"url": "http://h/v1", "model": ["sk-secret"]},
        {"url": "http://h/v1", "route": "sk-secret"},
        {"uri": "openai:/gpt", "base_url": "https://me:sk-secret@h/v1"},
        {"uri": "openai:/gpt", "inference_params": "sk-secret"},
        {"uri": "deployments:/x", "target": "http://me:sk-secret@localhost:5"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(judge):
    with pytest.raises(InvalidInputError) as told:
        backend_of(judge)
    assert not any(part in str(told.value) for part in ("sk-sec", "ret@"))


def test_a_key_in_the_place_of_its_variable_is_told_what_belongs_there():
    with pytest.raises(InvalidInputError, match="must be the name of a variable that holds the key, such as"):
        backend_of({"url": "http://h/v1", "api_key_env": "sk-secret"})


def test_a_target_of_the_environment_may_hold_no_key_either(monkeypatch):
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "http://me:sk-secret@localhost:5")
    with pytest.raises(InvalidInputError) as told:
        backend_of("deployments:/x")
    assert "sk-secret" not in str(told.value)


def test_of_headers_and_keys_the_names_alone_are_recorded():
    params = {
        "extra_headers": {"X-Key": "sk-secret", "Authorization": "sk-secret"},
        "extra_body": {"api_key": "sk-secret", "top_k": 3},
        "max_tokens": 9,
    }
    judge = backend_of({"uri": "openai:/m", "base_url": "https://h/v1?sig=sk-secret", "inference_params": params})
    described = judge.describe()
    assert described["inference_params"] == {
        "extra_headers": ["Authorization", "X-Key"],
        "extra_body": {"api_key": "not shown", "top_k": 3},
        "max_tokens": 9,
    }
    assert "sk-secret" not in str(described)


def test_an_azure_container_is_no_password():
    assert isinstance(backend_of("abfss://container@account.dfs.core.windows.net/model"), LocalJudge)


@pytest.mark.parametrize(
    ("url", "base", "model"),
    [
        ("http://h:1", "http://h:1/v1", None),
        ("http://h:1/", "http://h:1/v1", None),
        ("http://h:1/v1/", "http://h:1/v1", None),
        ("http://h:1/v1/chat/completions", "http://h:1/v1", None),
        ("https://h/openai/v1?model=org%2Fm", "https://h/openai/v1", "org/m"),
        ("http://[::1]:5001/v1#org/m:0.6b", "http://[::1]:5001/v1", "org/m:0.6b"),
    ],
)
def test_a_url_is_read_as_an_address_and_a_model(url, base, model):
    described = backend_of(url).describe()
    assert (described["url"], described["model"]) == (base, model)

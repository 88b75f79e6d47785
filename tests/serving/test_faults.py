"""When something breaks behind the server: the right status, nothing of the inside told, and others go on."""

from __future__ import annotations

import json
import threading
import time

import pytest

from mlflow_llm_plugins.generation import open_engine
from mlflow_llm_plugins.quantized_llm.pyfunc import QuantizedLLMPyfunc
from tests.generation.faults import Fault

CHAT = {"messages": [{"role": "user", "content": "SECRET question"}], "max_tokens": 4, "temperature": 0}
ENDLESS = {**CHAT, "max_tokens": 400, "ignore_eos": True}
POISON = (
    "{% for message in messages %}{% if 'POISON' in message.content %}"
    "{{ raise_exception('cannot take: ' + message.content) }}{% endif %}{{ message.content }}\n{% endfor %}"
)


@pytest.fixture
def breakable(serve, artifact, monkeypatch):
    """A server whose engine a test can break."""
    faults = []

    def open_breakable(model, tokenizer, settings, engine=None):
        faults.append(Fault(model))
        return open_engine(model, tokenizer, settings)

    monkeypatch.setattr("mlflow_llm_plugins.generation.open_engine", open_breakable)
    with serve() as running:
        yield running, faults[0]
        faults[0].blocks.set()


def post_in_threads(running, bodies):
    """Threads that post each body, and the answers that they leave."""
    answers = [None] * len(bodies)

    def post(i):
        with running.client() as client:
            answers[i] = client.post("/v1/chat/completions", json=bodies[i])

    threads = [threading.Thread(target=post, args=(i,)) for i in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, answers


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is tested
@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom at /home/secret/model.py"), SystemExit("enough")],
    ids=["an error in a step", "a silent end"],
)
def test_open_requests_get_503_when_the_engine_s_thread_ends_and_later_ones_are_answered(breakable, error, caplog):
    running, fault = breakable
    threads, answers = post_in_threads(running, [ENDLESS] * 6)
    wait_for(lambda: running.engine.stats().running_requests == 6)
    fault.error = error
    for thread in threads:
        thread.join(30)
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_lost")
        assert answer.headers["retry-after"] == "1"
        assert "boom" not in answer.text
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"] in caplog.text
    assert "SECRET" not in caplog.text
    wait_for(lambda: running.engine.stats().state == "running")
    with running.client() as client:
        assert client.get("/ready").status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_open_stream_ends_with_an_error_event_when_the_engine_s_thread_ends(breakable):
    running, fault = breakable
    body = {**ENDLESS, "stream": True}
    with running.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        fault.error = RuntimeError("boom")
        rest = [line.removeprefix("data: ") for line in lines if line]
    assert json.loads(rest[-2])["error"]["code"] == "engine_lost"
    assert rest[-1] == "[DONE]"
    assert running.engine.stats().open_requests == 0


def test_a_step_that_stands_still_turns_health_and_readiness_red(breakable):
    running, fault = breakable
    running.engine._watchdog._step_timeout_s = 0.3
    fault.blocks.clear()
    threads, answers = post_in_threads(running, [ENDLESS])
    threads[0].join(30)
    assert answers[0].status_code == 503
    with running.client() as client:
        assert (client.get("/health").status_code, client.get("/health").json()) == (503, {"status": "stalled"})
        assert client.get("/ready").json() == {"status": "stalled"}
        assert client.get("/ping").status_code == 200
        fault.blocks.set()
        wait_for(lambda: running.engine.stats().state == "running")
        assert client.get("/health").status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.fixture
def poisoned(tiny_llama, tmp_path, serve):
    from mlflow_llm_plugins import quantized_llm

    quantized_llm.save_model(str(tiny_llama), str(tmp_path / "model"), chat_template=POISON, bundle_plugin=False)
    with serve(tmp_path / "model") as running:
        yield running


def test_a_request_that_the_template_refuses_harms_nobody_and_is_not_shown(poisoned, caplog):
    poison = {**CHAT, "messages": [{"role": "user", "content": "POISON SECRET"}]}
    bodies = [poison if i % 2 else CHAT for i in range(12)]
    threads, answers = post_in_threads(poisoned, bodies)
    for thread in threads:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [400 if i % 2 else 200 for i in range(12)]
    for answer in answers[1::2]:
        assert "The chat template refuses these messages" in answer.json()["error"]["message"]
        assert "SECRET" not in answer.text
    assert "SECRET" not in caplog.text


MESSAGE = "no template for SECRET question in /home/user/model"


class Broken:
    """Whatever is asked of it, it fails with the prompt in its words."""

    def __getattr__(self, name):
        raise ValueError(MESSAGE)


def test_an_error_that_nobody_expected_is_500_with_an_id_and_tells_nothing(serve, caplog):
    with serve() as running:
        impl = running.model._model_impl
        assert isinstance(impl, QuantizedLLMPyfunc)
        impl.completions._prompts = Broken()
        with running.client() as client:
            answers = [
                client.post("/v1/chat/completions", json=CHAT),
                client.post("/v1/chat/completions", json={**CHAT, "stream": True}),
                client.post("/invocations", json=CHAT),
                client.post("/invocations", json={"inputs": ["SECRET question"]}),
            ]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"] in caplog.text
        for hidden in ("SECRET", "/home", "Traceback", "ValueError"):
            assert hidden not in answer.text
    assert "SECRET" not in caplog.text
    assert "ValueError" in caplog.text

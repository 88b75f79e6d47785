"""A stock `mlflow models serve` of an OpenVINO model: what it answers and refuses, without torch, and how it dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.quantized_llm.export_cache import FOLDER_VARIABLE
from tests.e2e.serving import WAIT_S, free_port, ready, serve_command, served, uvicorn_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="the engine needs POSIX")]

MESSAGES = [{"role": "user", "content": "What is a loop?"}]
CHAT: dict[str, Any] = {"model": "any", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
PROMPT = {"model": "any", "prompt": "A loop repeats its body", "temperature": 0}
LONGEST = 480  # tokens of an answer, about what the context allows
LONG: dict[str, Any] = {**CHAT, "max_tokens": LONGEST, "stream": True, "extra_body": {"ignore_eos": True}}
STREAMS = 16
GONE_S = 5  # for what a killed process leaves to be noticed
TRIES = 30  # of a request while the engine starts again: the client waits a second between them
ROUNDING = 0.15  # of a log-probability, by weights in 8 bits and what the CPU computes in
QUESTIONS = {
    "loops": {"type": "noul", "instructions": "Is it about loops?"},
    "topic": {"type": "choice", "criteria": {"loops": "repeating", "classes": None, "modules": "files"}},
    "quality": {"type": "score", "instructions": "How good is it?", "criteria": ["bad", "fair", "good"]},
}


class Verdict(BaseModel):
    """How good an answer is."""

    model_config = ConfigDict(extra="forbid")

    score: int = Field(ge=1, le=5)
    topics: list[Literal["loops", "classes"]] = Field(max_length=2)
    is_right: bool


@dataclass(frozen=True, slots=True)
class Running:
    """A server that takes requests."""

    http: httpx.Client  # for its address
    process: psutil.Process  # uvicorn's
    log: Path

    @property
    def url(self) -> str:
        """Where OpenAI's API begins."""
        return f"{str(self.http.base_url).rstrip('/')}/v1"

    def children(self) -> list[psutil.Process]:
        """The engine's processes: the one that generates, and after the first constraint the one that proves them."""
        return [child for child in self.process.children() if "child_main" in " ".join(child.cmdline())]


@contextmanager
def running(artifact: Path, folder: Path, **environment: str) -> Iterator[Running]:
    """Serve an artifact until the block ends, with these environment variables beside the others."""
    command = serve_command(str(artifact), port := free_port())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with served(command, port, folder / "serve.log") as http:
            wait_for(lambda: ready(http))
            yield Running(http, uvicorn_of(command), folder / "serve.log")


@pytest.fixture(scope="module")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), quantization="openvino-int8", bundle_plugin=False)
    return path


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all that need no other; each of its processes names what it imports in the log."""
    with running(artifact, tmp_path_factory.mktemp("serve"), PYTHONPROFILEIMPORTTIME="1") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    """OpenAI's client, without retries."""
    with client_of(server) as client:
        yield client


def client_of(server: Running, max_retries: int = 0) -> OpenAI:
    return OpenAI(base_url=server.url, api_key="none", max_retries=max_retries, timeout=WAIT_S)


@pytest.fixture(scope="module")
def torch_logprobs(tiny_llama: Path) -> Callable[[list[str]], list[float]]:
    """A function: the texts of tokens -> the log-probability of each but the first, of the unquantized model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids_of = {tokenizer.decode([i]): i for i in range(len(tokenizer))}

    @torch.no_grad()
    def logprobs(tokens: list[str]) -> list[float]:
        ids = torch.tensor([[ids_of[token] for token in tokens]])
        found = model(input_ids=ids).logits.log_softmax(-1)  # [1, length, vocab]
        return found[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()

    return logprobs


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_chat_says_the_same_whole_and_streamed_and_tells_of_no_cached_tokens(client):
    whole = client.chat.completions.create(**CHAT)
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert len(whole.choices[0].message.content) > 8
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    assert "prompt_tokens_details" not in whole.usage.model_dump(exclude_unset=True)


def test_a_completion_says_the_same_whole_and_streamed(client):
    whole = client.completions.create(**PROMPT, max_tokens=12)
    chunks = client.completions.create(**PROMPT, max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage.completion_tokens == 12


def test_answers_to_one_request_differ_and_a_seed_repeats_one(client):
    drawn = {**CHAT, "temperature": 1.5}
    several = client.chat.completions.create(**drawn, n=4, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in several.choices}) == 4
    first, again, other = (
        client.chat.completions.create(**drawn, seed=seed).choices[0].message.content for seed in (1, 1, 2)
    )
    assert first == again != other


def test_an_answer_ends_before_its_stop_string(client):
    whole = client.chat.completions.create(**CHAT).choices[0].message.content
    stop = whole[4:7]
    stopped = client.chat.completions.create(**CHAT, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_a_chat_has_the_log_probabilities_of_its_tokens(client):
    [choice] = client.chat.completions.create(**CHAT, logprobs=True).choices
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert len(tokens) == 12
    assert all(token.logprob < 0 and token.top_logprobs == [] for token in tokens)


@pytest.mark.parametrize("max_tokens", [0, 6])
def test_an_echo_has_the_log_probabilities_of_prompt_and_answer(client, torch_logprobs, max_tokens):
    [choice] = client.completions.create(**PROMPT, max_tokens=max_tokens, echo=True, logprobs=0).choices
    tokens, found = choice.logprobs.tokens, choice.logprobs.token_logprobs
    prompt_tokens = len(tokens) - max_tokens
    assert "".join(tokens[1:prompt_tokens]) == PROMPT["prompt"]
    assert choice.text == "".join(tokens[1:])
    assert found[0] is None
    assert found[1:] == pytest.approx(torch_logprobs(tokens), abs=ROUNDING)


def test_an_answer_follows_a_json_schema_whole_and_streamed(client):
    asked = {**CHAT, "max_tokens": 200}
    parsed = client.chat.completions.parse(**asked, response_format=Verdict)
    with client.chat.completions.stream(**asked, response_format=Verdict) as stream:
        streamed = stream.get_final_completion()
    verdict = parsed.choices[0].message.parsed
    assert isinstance(verdict, Verdict)
    assert streamed.choices[0].message.parsed == verdict
    assert parsed.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": "[0-9]{3}-[a-f]{2,4}"}, "[0-9]{3}-[a-f]{2,4}"),
        ({"choice": ["a loop.", "no (loop)"]}, r"a loop\.|no \(loop\)"),
    ],
    ids=["regex", "choice"],
)
def test_an_answer_has_the_form_that_was_asked_for(client, form, pattern):
    [choice] = client.chat.completions.create(**CHAT, extra_body=form).choices
    assert re.fullmatch(pattern, choice.message.content)
    assert choice.finish_reason == "stop"


def test_typed_decisions_are_answered(server):
    body = {"model": "any", "state": {"text": "A loop repeats.", "n": 1}, "questions": QUESTIONS}
    response = server.http.post("/v1/systemone", json=body)
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    shares = answers["topic"]["probabilities"]
    assert list(answers) == list(QUESTIONS)
    assert sum(shares.values()) == pytest.approx(1)
    assert answers["topic"]["choice"] == max(shares, key=shares.get)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"logit_bias": {"5": 1}},
            "logit_bias. OpenVINO GenAI has nothing like it. Leave it out, or serve the original weights with "
            "engine='transformers'.",
        ),
        (
            {"logprobs": True, "top_logprobs": 2},
            "top_logprobs: of other tokens in their places. OpenVINO GenAI tells only those of the tokens that it "
            "picked: ask for 0.",
        ),
        (
            {"extra_body": {"grammar": 'start: "yes"'}},
            "constrained to a Lark grammar. OpenVINO GenAI reads no Lark. Use json_schema, regex or choice, or "
            "serve the original weights with engine='transformers'.",
        ),
    ],
    ids=["logit_bias", "top_logprobs", "grammar"],
)
def test_what_openvino_cannot_do_is_refused_by_name(client, asked, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**CHAT, **asked)
    assert caught.value.body["message"] == f"The engine 'openvino' cannot do this: {message}"
    assert caught.value.code == "unsupported_parameter"


def test_no_process_of_the_server_imports_torch_or_transformers(server, client):
    client.chat.completions.create(**CHAT, extra_body={"regex": "[a-c]+"})
    client.completions.create(**PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert len(server.children()) == 2
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", server.log.read_text(), re.M)
    packages = {name.partition(".")[0] for name in imported}
    assert {"mlflow", "openvino", "openvino_genai", "tokenizers"} <= packages
    assert not {"torch", "transformers", "accelerate", "nncf"} & packages


async def _streams(server: Running, when_all_began: Callable[[], None]) -> list[Exception | None]:
    """What each of some long streams ended with; the function is called in the middle of all."""
    began = 0

    async def read() -> None:
        nonlocal began
        stream = await client.chat.completions.create(**LONG)
        await anext(stream)
        began += 1
        if began == STREAMS:
            when_all_began()
        async for _ in stream:
            pass

    async with AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
        return await asyncio.gather(*(read() for _ in range(STREAMS)), return_exceptions=True)


def test_streams_end_with_an_error_when_the_engine_s_process_is_killed_and_the_next_is_answered(artifact, tmp_path):
    killed_at = 0.0

    def kill() -> None:
        nonlocal killed_at
        killed_at = time.monotonic()
        victim.kill()

    with running(artifact, tmp_path) as server:
        [victim] = server.children()
        ends = asyncio.run(_streams(server, kill))
        assert time.monotonic() - killed_at < GONE_S
        for end in ends:
            assert isinstance(end, openai.APIError)
            assert end.code == "engine_lost"
            assert "The engine ended while it worked on this request." in end.message
        with client_of(server, max_retries=TRIES) as client:
            assert client.chat.completions.create(**CHAT).usage.completion_tokens == 12
        wait_for(lambda: server.http.get("/health").json() == {"status": "running"})
        [fresh] = server.process.children()  # and so no zombie
        assert fresh != victim
        assert fresh.status() != psutil.STATUS_ZOMBIE


def test_no_process_of_the_engine_outlives_a_server_that_is_killed(artifact, tmp_path):
    with running(artifact, tmp_path) as server:
        with client_of(server) as client:
            client.chat.completions.create(**CHAT, extra_body={"regex": "[a-c]+"})
            children = server.children()
            assert len(children) == 2
            with client.chat.completions.create(**LONG) as stream:
                next(stream)
                server.process.kill()
                _, alive = psutil.wait_procs(children, GONE_S)
        assert not alive


def test_sigterm_lets_an_open_stream_finish_and_ends_all_with_status_0(artifact, tmp_path):
    with running(artifact, tmp_path) as server:
        command, children = server.process.parent(), server.children()
        with client_of(server) as client, client.chat.completions.create(**LONG) as stream:
            first = next(stream)
            server.process.send_signal(signal.SIGTERM)
            *_, last = stream
        assert last.id == first.id
        assert last.choices[0].finish_reason == "length"
        assert command.wait(WAIT_S) == 0  # of MLflow's command, which fails where the server does
        _, alive = psutil.wait_procs([server.process, *children], GONE_S)
        assert not alive
    log = server.log.read_text()
    assert "Draining: 1 requests are open." in log  # so it did not end before the signal
    assert "Traceback" not in log


def test_ordinary_weights_answer_as_torch_does_where_the_server_is_told_to_use_openvino(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_llama), AutoModelForCausalLM.from_pretrained(tiny_llama)
    prompt = tokenizer(PROMPT["prompt"], return_tensors="pt")
    expected = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt.input_ids.shape[1] :]
    quantized_llm.save_model(str(tiny_llama), str(tmp_path / "model"), bundle_plugin=False)
    config = {"engine": "openvino", "inference_precision": "f32", "kv_cache_precision": "f32"}
    environment = {"SERVING_MODEL_CONFIG": json.dumps(config), FOLDER_VARIABLE: str(tmp_path / "cache")}
    with running(tmp_path / "model", tmp_path, **environment) as server, client_of(server) as client:
        said = client.completions.create(**PROMPT, max_tokens=24).choices[0].text
        assert len(server.children()) == 1
    assert said == tokenizer.decode(expected, skip_special_tokens=True)
    assert list((tmp_path / "cache").rglob("openvino_model.xml"))

"""Unmodified clients that only some environments have, on a stock `mlflow models serve`.

    pip install typesafe-sdk systemone-client langchain-openai 'lm-eval[api]'
    pytest tests/e2e/test_other_clients.py

beside `.[all,test]`. What is not installed is skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from pydantic import BaseModel, Field

pytestmark = pytest.mark.slow

STATE = "A loop repeats its body."
TOPICS = {"loops": "what repeats", "classes": "what has methods"}
LEVELS = ["bad", "fair", "good"]
LONG = "loop " * 2000
QUESTION = "What is a loop?"
EVALUATION_S = 240
DOCUMENTS = [
    {"text": "A for statement repeats", "choices": [" its body", " the class", "\n\nOnce"], "answer": 1},
    {"text": "A class has", "choices": [" methods", " a loop of", " names"], "answer": 0},
    {"text": "", "choices": ["The", "A class is", "Loops"], "answer": 0},  # continues the beginning of a text
    {"text": "The import statement ", "choices": ["finds a module", "is a", "binds names"], "answer": 2},
    {"text": "What is a function?", "choices": [" It is a definition.", " No", " A"], "answer": 1},
]
OWN = "A module is"  # what the model itself goes on with is a choice
ANSWER_TOKENS = 12


def needs(module: str, package: str) -> pytest.MarkDecorator:
    """Skip where a package is not installed, before any server is started."""
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {package}")


class Verdict(BaseModel):
    """How good an answer is."""

    topic: Literal["loops", "classes"]
    score: int = Field(ge=1, le=5)


@needs("typesafe_sdk", "typesafe-sdk")
def test_typesafe_asks_every_kind_of_question(server):
    import typesafe_sdk as typesafe

    questions = {
        "right": typesafe.Noul(instructions="Is it right?"),
        "topic": typesafe.Choice(instructions="Which topic?", criteria=TOPICS),
        "quality": typesafe.Score(instructions="How good is it?", criteria=LEVELS),
    }

    async def awaited() -> Any:
        async with typesafe.AsyncTypeSafeClient(api_key="none", base_url=server.root) as client:
            return await client.system_one({"text": STATE}, questions, model="any")

    with typesafe.TypeSafeClient(api_key="none", base_url=server.root) as client:
        answer = client.system_one({"text": STATE}, questions, model="any")
        with pytest.raises(typesafe.TypeSafeBadRequestError, match="Shorten the state"):
            client.system_one(LONG, questions, model="any")
    assert 0 < answer.nouls["right"].noul < 1
    assert set(answer.choices["topic"].probabilities) == set(TOPICS)
    assert answer.scores["quality"].legend == dict(enumerate(LEVELS))
    assert answer.usage.input_tokens > 0
    assert asyncio.run(awaited()).answers == answer.answers


@needs("systemone", "systemone-client")
def test_systemone_client_asks_every_kind_of_question(server):
    import systemone

    questions = {
        "right": systemone.Noul("Is it right?"),
        "topic": systemone.Choice(instructions="Which topic?", criteria=TOPICS),
        "quality": systemone.Score(instructions="How good is it?", criteria=LEVELS),
    }

    async def awaited() -> Any:
        async with systemone.AsyncClient(server.root, api_key="none") as client:
            return await client.system_one(STATE, questions)

    with systemone.Client(server.root, api_key="none") as client:
        answer = client.system_one(STATE, questions)
        with pytest.raises(systemone.SystemOneError, match="context_length_exceeded"):
            client.system_one(LONG, questions)
    assert 0 < answer.nouls["right"].noul < 1
    assert sum(answer.choices["topic"].probabilities.values()) == pytest.approx(1)
    assert 0 <= answer.scores["quality"].score <= 2
    again = asyncio.run(awaited())
    assert (again.nouls, again.choices, again.scores) == (answer.nouls, answer.choices, answer.scores)


@needs("langchain_openai", "langchain-openai")
@pytest.mark.filterwarnings("ignore:The class `OpenAIDecisions` is in beta")
def test_langchain_decides(server):
    from langchain_openai import decisions

    questions = {
        "right": decisions.Predicate(instructions="Is it right?"),
        "topic": decisions.Choice(instructions="Which topic?", choices=TOPICS),
        "quality": decisions.Score(instructions="How good is it?", levels=LEVELS),
    }
    decider = decisions.OpenAIDecisions(model="any", base_url=server.url, api_key="none")
    answer = decider.invoke({"input": STATE, "questions": questions})
    assert 0 < answer.predicates["right"].probability < 1
    assert answer.choices["topic"].choice in TOPICS
    assert answer.scores["quality"].legend == dict(enumerate(LEVELS))
    assert asyncio.run(decider.ainvoke({"input": STATE, "questions": questions})).answers == answer.answers


@needs("langchain_openai", "langchain-openai")
def test_langchain_chats_streams_and_keeps_to_a_schema(server):
    from langchain_openai import ChatOpenAI

    def chat(max_tokens: int) -> Any:
        where = {"base_url": server.url, "api_key": "none"}
        return ChatOpenAI(model="any", temperature=0, max_tokens=max_tokens, **where)

    answer = chat(8).invoke(QUESTION)
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.content for chunk in chat(8).stream(QUESTION)) == answer.content
    assert asyncio.run(chat(8).ainvoke(QUESTION)).content == answer.content
    assert isinstance(chat(60).with_structured_output(Verdict).invoke(QUESTION), Verdict)


@pytest.fixture(scope="module")
def plain(tiny_llama):
    """The checkpoint under transformers alone: what every answer must agree with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval(), AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def tasks(tmp_path, plain):
    """A folder of tasks on local data for lm-evaluation-harness."""
    own = greedy(plain, plain[1](OWN, add_special_tokens=False)["input_ids"], max_new_tokens=1)
    documents = [*DOCUMENTS, {"text": OWN, "choices": [own, " ever", " a"], "answer": 0}]
    data = tmp_path / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    pick = {
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    write_task(tmp_path, data, "pick", "{{text}}", **pick)
    for task, prompt, until in (("go_on", "So: {{text}}", ["."]), ("one_line", "Q: {{text}}\nA:", ["\n", " is"])):
        write_task(tmp_path, data, task, prompt, **generating(until))
    return tmp_path


def generating(until: Sequence[str]) -> dict[str, Any]:
    return {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": until, "max_gen_toks": ANSWER_TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def write_task(folder: Path, data: Path, name: str, prompt: str, **rest: Any) -> None:
    where = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    task = {"task": name, **where, "doc_to_text": prompt, "target_delimiter": "", **rest}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def evaluated(folder: Path, names: Sequence[str], model: str, arguments: dict[str, Any], *options: str) -> Path:
    """Run `lm_eval` on these tasks, and return where its results are."""
    given = ",".join(f"{name}={value}" for name, value in {"model": "any", **arguments}.items())
    what = ["--model", model, "--model_args", given, "--tasks", ",".join(names), "--include_path", str(folder)]
    out = folder / "out"
    command = [sys.executable, "-m", "lm_eval", "run", *what, "--log_samples", "--output_path", str(out), *options]
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=EVALUATION_S, check=False, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "any"


def samples(results: Path, task: str) -> list[dict[str, Any]]:
    """What was asked and answered, in the order of the documents."""
    [file] = results.glob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


def loglikelihood(plain, context: str, continuation: str) -> tuple[float, bool]:
    """Of a continuation, by a forward pass of the whole; and whether greedy decoding would write it."""
    model, tokenizer = plain
    given = context.rstrip()  # a token begins with its space, so spaces belong to what follows
    ids = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(given, add_special_tokens=False)["input_ids"])
    if not given:
        ids, start = [tokenizer.bos_token_id, *ids], 1
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    rows, tail = logprobs[start - 1 : -1], torch.tensor(ids[start:])
    return float(rows.gather(1, tail[:, None]).sum()), bool((rows.argmax(-1) == tail).all())


def greedy(plain, ids: list[int], until: Sequence[str] = (), max_new_tokens: int = ANSWER_TOKENS) -> str:
    """What the model goes on with, up to a stop string."""
    model, tokenizer = plain
    with torch.no_grad():
        output = model.generate(torch.tensor([ids]), max_new_tokens=max_new_tokens, do_sample=False)
    text = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
    return text[: min((found for stop in until if (found := text.find(stop)) >= 0), default=len(text))]


@needs("lm_eval", "lm-eval[api]")
def test_lm_eval_sees_the_model_s_own_completions_and_loglikelihoods(server, tiny_llama, plain, tasks):
    arguments = {"base_url": f"{server.url}/completions", "tokenizer": tiny_llama, "max_length": 512}
    arguments["tokenizer_backend"] = "huggingface"
    results = evaluated(tasks, ["pick", "go_on"], "local-completions", arguments, "--batch_size", "4")
    picked = samples(results, "pick")
    assert len(picked) == len(DOCUMENTS) + 1
    for sample in picked:
        asked = [(each["arg_0"], each["arg_1"]) for each in sample["arguments"].values()]
        expected = [loglikelihood(plain, *pair) for pair in asked]
        found = [(float(value), is_greedy == "True") for value, is_greedy in sample["filtered_resps"]]
        assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
        assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]
        best = max(range(len(expected)), key=lambda i: expected[i][0])
        assert sample["acc"] == (best == sample["doc"]["answer"])
    for sample in samples(results, "go_on"):
        prompt = sample["arguments"]["gen_args_0"]["arg_0"]
        ids = plain[1](prompt, add_special_tokens=False)["input_ids"]
        assert sample["filtered_resps"] == [greedy(plain, ids, ["."])]


@needs("lm_eval", "lm-eval[api]")
def test_lm_eval_sees_the_model_s_own_chats(server, plain, tasks):
    arguments = {"base_url": f"{server.url}/chat/completions", "num_concurrent": 4}
    stops = {"go_on": ["."], "one_line": ["\n", " is"]}
    results = evaluated(tasks, list(stops), "local-chat-completions", arguments, "--apply_chat_template")
    for task, until in stops.items():
        found = samples(results, task)
        assert len(found) == len(DOCUMENTS) + 1
        for sample in found:
            [messages] = sample["arguments"]["gen_args_0"]["arg_0"]
            ids = plain[1].apply_chat_template(json.loads(messages), add_generation_prompt=True, return_dict=False)
            assert sample["filtered_resps"] == [greedy(plain, ids, until)]

"""The pyfunc model gives each form of input the answer that fits it, alone and inside MLflow's own server."""

from __future__ import annotations

import json
import logging
import sys
import threading
import types

import mlflow
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import scoring_server

from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.quantized_llm.pyfunc import QuantizedLLMPyfunc
from mlflow_llm_plugins.quantized_llm.signature import frame_is_request, resolve_signature
from tests.models import byte_tokenizer
from tests.quantized_llm.fake_engine import FAILS, FakeEngine

CHAT, COMPLETIONS = "llm/v1/chat", "llm/v1/completions"
USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "s"}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def engine(tokenizer):
    return FakeEngine(tokenizer)


def model(engine, task=CHAT, **options):
    return QuantizedLLMPyfunc(engine, model_name="tiny", task=task, **options)


def chat(*messages):
    return (
        "<|bos|>" + "".join(f"<|{role}|>{text}<|end|>" for role, text in map(dict.values, messages)) + "<|assistant|>"
    )


def refusal_of(call, *args, **kwargs):
    with pytest.raises(MlflowException) as refusal:
        call(*args, **kwargs)
    return refusal.value


class TestRows:
    @pytest.mark.parametrize(
        "data", [["a", "b"], np.array(["a", "b"]), pd.Series(["a", "b"]), pd.DataFrame({"prompt": ["a", "b"]})]
    )
    def test_each_row_gets_its_text_in_order(self, engine, data):
        assert model(engine, COMPLETIONS).predict(data) == ["[a]", "[b]"]

    def test_a_string_is_a_user_s_message_where_the_task_is_chat(self, engine):
        assert model(engine).predict("hi") == [f"[{chat(USER)}]"]

    def test_a_conversation_is_rendered_whatever_the_task(self, engine):
        assert model(engine, COMPLETIONS).predict([[SYSTEM, USER]]) == [f"[{chat(SYSTEM, USER)}]"]

    @pytest.mark.parametrize(
        ("task", "prompt"),
        [(CHAT, chat({"role": "user", "content": "Be brief: {hi}"})), (COMPLETIONS, "Be brief: {hi}")],
    )
    def test_the_prompt_template_goes_around_a_string(self, engine, task, prompt):
        model(engine, task, prompt_template="Be brief: {prompt}").predict("{hi}")
        assert engine.prompts == [prompt]

    def test_a_chat_template_can_replace_the_tokenizer_s(self, engine):
        model(engine, chat_template="{{ messages[0].content }}!").predict("hi")
        assert engine.prompts == ["hi!"]

    def test_parameters_reach_the_engine(self, engine):
        params = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "seed": 7, "stop_sequences": ["x"], "top_k": None}
        model(engine, COMPLETIONS).predict(["a", "b"], params)
        for request in engine.requests:
            assert (request.temperature, request.top_p, request.top_k) == (0.5, 0.9, None)
            assert (request.max_new_tokens, request.seed, request.stop) == (3, 7, ("x",))

    def test_without_parameters_the_model_s_own_defaults_apply(self, engine):
        config = {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05, "min_new_tokens": 3}
        model(engine, generation_config=config).predict("a")
        assert (engine.requests[0].temperature, engine.requests[0].top_k) == (0.7, 20)
        assert (engine.requests[0].repetition_penalty, engine.requests[0].min_new_tokens) == (1.05, 3)

    def test_without_any_defaults_answers_are_greedy(self, engine):
        model(engine).predict("a")
        assert engine.requests[0].temperature == 0

    def test_several_answers_a_row_are_refused(self, engine):
        refusal = refusal_of(model(engine).predict, ["a"], {"n": 3})
        assert "n=3 is not supported for rows, which get one text each" in refusal.message
        assert refusal.error_code == "INVALID_PARAMETER_VALUE"

    @pytest.mark.parametrize(
        ("params", "constraint"),
        [
            ({"regex": "a+", "choice": []}, Constraint("regex", "a+")),
            ({"choice": ["yes", "no"]}, Constraint("choice", ("yes", "no"))),
            ({"json_schema": '{"type": "object"}', "regex": None}, Constraint("json_schema", '{"type": "object"}')),
            ({"grammar": 'start: "a"'}, Constraint("lark", 'start: "a"')),
            ({"choice": [], "regex": None}, None),
        ],
    )
    def test_every_row_is_answered_in_the_form_that_the_parameters_ask_for(self, engine, params, constraint):
        model(engine).predict(["a", "b"], params)
        assert [request.constraint for request in engine.requests] == [constraint] * 2

    def test_penalties_and_ends_reach_the_engine(self, engine):
        params = {"repetition_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -1.0, "min_tokens": 2}
        model(engine).predict("a", {**params, "logit_bias": {"7": -100}, "stop_token_ids": [5], "ignore_eos": True})
        (request,) = engine.requests
        assert (request.repetition_penalty, request.frequency_penalty, request.presence_penalty) == (1.1, 0.5, -1.0)
        assert (request.min_new_tokens, request.logit_bias) == (2, {7: -100.0})
        assert (request.eos_token_ids, request.stop_token_ids) == ((), (5,))

    def test_end_tokens_are_left_to_the_model_where_nothing_is_said(self, engine):
        model(engine).predict("a", {"ignore_eos": False})
        assert engine.requests[0].eos_token_ids is None

    @pytest.mark.parametrize("params", [{"guided_regex": "a+"}, {"logprobs": True}, {"structured_outputs": {"a": 1}}])
    def test_what_the_engine_cannot_do_is_refused_by_name(self, engine, params):
        refusal = refusal_of(model(engine).predict, ["a"], params)
        assert next(iter(params)) in refusal.message
        assert "not supported by this engine" in refusal.message
        assert engine.requests == []


class TestManyRows:
    def test_rows_are_in_the_engine_together_but_not_more_than_allowed(self, engine):
        prompts = [f"row {i}" for i in range(40)]
        assert model(engine, COMPLETIONS, max_in_flight=8).predict(prompts) == [f"[{prompt}]" for prompt in prompts]
        assert engine.most_open == 8

    def test_a_program_that_calls_sees_no_progress_bar(self, engine, capsys):
        model(engine).predict([f"row {i}" for i in range(40)])
        assert capsys.readouterr() == ("", "")

    def test_a_queue_that_others_fill_is_shared(self, tokenizer):
        engine = FakeEngine(tokenizer, queue_size=5)
        engine.taken_by_others = 3
        prompts = [f"row {i}" for i in range(10)]
        assert model(engine, COMPLETIONS, max_in_flight=8).predict(prompts) == [f"[{prompt}]" for prompt in prompts]
        assert engine.most_open == 2

    def test_a_queue_full_of_others_is_reported_as_such(self, tokenizer):
        engine = FakeEngine(tokenizer, queue_size=5)
        engine.taken_by_others = 5
        refusal = refusal_of(model(engine, COMPLETIONS).predict, ["a", "b"])
        assert (refusal.get_http_status_code(), refusal.message) == (429, "5 requests are open already.")

    def test_a_row_that_fails_is_named_and_the_others_leave_the_engine(self, engine):
        prompts = ["a", "b", FAILS, "c", "d"]
        refusal = refusal_of(model(engine, COMPLETIONS).predict, prompts)
        assert refusal.message == "row 2 (counting from 0): The logits are not finite."
        assert refusal.error_code == "INTERNAL_ERROR"
        assert engine.open == []
        assert [stream.was_cancelled for stream in engine.streams] == [False, False, False, True, True]

    def test_one_row_that_fails_needs_no_number(self, engine):
        assert refusal_of(model(engine, COMPLETIONS).predict, FAILS).message == "The logits are not finite."

    @pytest.mark.parametrize(
        ("bad", "complaint"),
        [
            ("", "row 1 (counting from 0): The prompt is empty"),
            (
                "x" * 50,
                "row 1 (counting from 0): Prompt and answer would have 51 tokens, the context has 20.",
            ),
            ([{"role": "robot", "content": "x"}], "row 1 (counting from 0): messages[0].role must be one of"),
            (None, "row 1 is None"),
        ],
    )
    def test_a_bad_row_is_found_before_anything_is_generated(self, tokenizer, bad, complaint):
        engine = FakeEngine(tokenizer, context=20)
        refusal = refusal_of(model(engine, COMPLETIONS).predict, ["a", bad, "b"])
        assert complaint in refusal.message
        assert refusal.error_code == "INVALID_PARAMETER_VALUE"
        assert engine.requests == []

    def test_an_answer_that_cannot_fit_is_found_before_anything_is_generated(self, tokenizer):
        engine = FakeEngine(tokenizer, context=20)
        refusal = refusal_of(model(engine, COMPLETIONS).predict, ["a", "b" * 10], {"max_tokens": 15})
        assert refusal.message == (
            "row 1 (counting from 0): Prompt and answer would have 25 tokens, the context has 20."
        )
        assert engine.requests == []

    def test_callers_in_many_threads_get_their_own_answers(self, engine):
        shared = model(engine, COMPLETIONS, max_in_flight=3)
        answers = {}

        def call(caller):
            answers[caller] = shared.predict([f"{caller}.{i}" for i in range(20)])

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert answers == {caller: [f"[{caller}.{i}]" for i in range(20)] for caller in range(8)}


class TestRequests:
    def test_messages_get_one_chat_completion(self, engine):
        answer = model(engine).predict({"messages": [SYSTEM, USER], "max_tokens": 5})
        assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
        (choice,) = answer["choices"]
        assert choice["message"]["content"] == f"[{chat(SYSTEM, USER)}]"[:5]
        assert choice["finish_reason"] == "length"
        tokens = len(engine.requests[0].prompt_ids)
        assert answer["usage"] == {
            "prompt_tokens": tokens,
            "completion_tokens": 5,
            "total_tokens": tokens + 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    @pytest.mark.parametrize("task", [CHAT, COMPLETIONS])
    def test_a_prompt_is_raw_text_whatever_the_task(self, engine, task):
        answer = model(engine, task).predict({"prompt": "hi"})
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "[hi]"

    @pytest.mark.parametrize(("task", "prompt"), [(CHAT, "hi"), (COMPLETIONS, "Q: hi")])
    def test_the_prompt_template_belongs_to_the_model_s_own_task(self, engine, task, prompt):
        model(engine, task, prompt_template="Q: {prompt}").predict({"prompt": "hi"})
        assert engine.prompts == [prompt]

    def test_token_ids_are_taken_as_they_are(self, engine):
        model(engine, COMPLETIONS, prompt_template="Q: {prompt}").predict({"prompt": [[10, 11], [12]]})
        assert [list(request.prompt_ids) for request in engine.requests] == [[10, 11], [12]]

    def test_choices_of_several_prompts_come_in_order(self, engine):
        answer = model(engine).predict({"prompt": ["a", "b"], "n": 2, "seed": 5, "temperature": 1})
        texts = [(choice["index"], choice["text"]) for choice in answer["choices"]]
        assert texts == [(0, "[a]#5"), (1, "[a]#6"), (2, "[b]#5"), (3, "[b]#6")]
        assert answer["usage"]["prompt_tokens"] == 2

    def test_the_choices_after_the_largest_seed_have_seeds_too(self, engine):
        model(engine).predict({"prompt": "a", "n": 2, "seed": 2**63 - 1})
        assert [request.seed for request in engine.requests] == [2**63 - 1, -(2**63)]

    def test_greedy_choices_are_equal(self, engine):
        answer = model(engine).predict({"messages": [USER], "n": 3})
        assert len({choice["message"]["content"] for choice in answer["choices"]}) == 1
        assert len(answer["choices"]) == 3

    @pytest.mark.parametrize("content", [{"messages": [USER]}, {"prompt": "a"}])
    def test_each_choice_has_the_form_that_the_request_asks_for(self, engine, content):
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}}
        response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
        model(engine).predict({**content, "response_format": response_format, "n": 2})
        assert [request.constraint for request in engine.requests] == [
            Constraint("json_schema", json.dumps(schema))
        ] * 2

    def test_a_field_of_the_data_comes_before_the_parameters(self, engine):
        model(engine).predict({"prompt": "a", "temperature": 0.2, "top_p": None}, {"temperature": 0.9, "top_p": 0.5})
        assert (engine.requests[0].temperature, engine.requests[0].top_p) == (0.2, 0.5)

    def test_template_variables_reach_the_template(self, engine):
        thinks = "{{ messages[0].content }}{% if think %} hm{% endif %}"
        model(engine, chat_template=thinks).predict({"messages": [USER], "chat_template_kwargs": {"think": True}})
        assert engine.prompts == ["hi hm"]

    def test_streaming_is_pointed_to_its_own_method(self, engine):
        refusal = refusal_of(model(engine).predict, {"messages": [USER], "stream": True})
        assert "call predict_stream instead" in refusal.message
        assert engine.requests == []

    def test_a_choice_that_fails_is_named_and_the_others_leave_the_engine(self, engine):
        refusal = refusal_of(model(engine).predict, {"prompt": ["a", FAILS, "b"]})
        assert refusal.message == "choice 1 (counting from 0): The logits are not finite."
        assert engine.open == []

    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            ({"messages": []}, "messages must have at least one message"),
            ({"messages": [USER], "temperature": "0.5"}, "temperature must be a finite number, got '0.5'."),
            ({"messages": [USER], "temperature": float("nan")}, "temperature must be a finite number, got nan."),
            ({"messages": [USER], "temperature": -1}, "temperature must be from 0"),
            ({"messages": [USER], "top_p": 0}, "top_p must be above 0 and at most 1, got 0.0."),
            ({"messages": [USER], "max_tokens": 0}, "max_tokens must be at least 1, got 0."),
            ({"messages": [USER], "temprature": 1}, "Did you mean 'temperature'?"),
            ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
            ({"prompt": "a", "max_tokens": 0}, "max_tokens must be at least 1, or 0 with echo=true, got 0"),
            ({"messages": [USER], "repetition_penalty": 0}, "repetition_penalty must be from 0.01 to 100"),
            ({"messages": [USER], "logit_bias": {"5": 101}}, "logit_bias must be a mapping of token ids to numbers"),
            ({"messages": [USER], "choice": ["a", ""]}, "choice must be strings that are not empty"),
            ({"messages": [USER], "regex": "a", "choice": ["a"]}, "regex='a', choice=['a'] each say what the answer"),
            ({"messages": [USER], "response_format": {"type": "json"}}, "response_format.type must be 'text' or"),
            ({"prompt": ""}, "The prompt is empty"),
        ],
    )
    def test_a_bad_request_is_the_caller_s_fault_and_reaches_no_engine(self, engine, data, complaint):
        refusal = refusal_of(model(engine).predict, data)
        assert complaint in refusal.message
        assert refusal.get_http_status_code() == 400
        assert engine.requests == []


def test_a_model_without_a_chat_template_still_completes(tokenizer):
    engine = FakeEngine(byte_tokenizer())
    engine.tokenizer.chat_template = None
    assert model(engine, COMPLETIONS).predict("a") == ["[a]"]
    assert "Log it with chat_template='...'" in refusal_of(model(engine).predict, {"messages": [USER]}).message


def test_what_a_checkpoint_asks_for_in_vain_is_said_once(engine, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = model(engine, generation_config={"typical_p": 0.9, "top_p": 0.8, "do_sample": True})
        loaded.predict(["a", "b"])
    (record,) = caplog.records
    assert record.getMessage() == (
        "Answers are made without typical_p=0.9: the model's generation_config has it, the engine does not support it."
    )


def test_the_raw_model_is_the_engine(engine):
    assert model(engine).get_raw_model() is engine


class TestStreams:
    def test_a_chat_is_streamed_in_chunks(self, engine):
        chunks = list(model(engine).predict_stream({"messages": [USER], "stream": True}))
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert _chat_text(chunks) == f"[{chat(USER)}]"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

    def test_usage_comes_last_where_it_was_asked_for(self, engine):
        request = {"prompt": "ab", "max_tokens": 2, "stream_options": {"include_usage": True}}
        *_, last = model(engine).predict_stream(request)
        assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (2, 2)

    @pytest.mark.parametrize(("task", "kind"), [(CHAT, "chat.completion.chunk"), (COMPLETIONS, "text_completion")])
    @pytest.mark.parametrize("data", ["hi", ["hi"], pd.DataFrame({"prompt": ["hi"]})])
    def test_one_row_is_streamed_as_its_task_says(self, engine, task, kind, data):
        chunks = list(model(engine, task).predict_stream(data, {"max_tokens": 4}))
        assert {chunk["object"] for chunk in chunks} == {kind}

    def test_a_stream_has_the_form_that_was_asked_for(self, engine):
        list(model(engine).predict_stream({"messages": [USER], "response_format": {"type": "json_object"}}))
        list(model(engine).predict_stream(["hi"], {"choice": ["yes", "no"]}))
        assert [request.constraint for request in engine.requests] == [
            Constraint("json_schema", '{"type": "object"}'),
            Constraint("choice", ("yes", "no")),
        ]

    def test_several_choices_carry_their_index(self, engine):
        chunks = list(model(engine).predict_stream({"prompt": ["a", "b"], "n": 2}))
        texts = ["", "", "", ""]
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert texts == ["[a]", "[a]", "[b]", "[b]"]

    def test_an_abandoned_stream_leaves_the_engine(self, engine):
        stream = model(engine).predict_stream({"prompt": ["a", "b"]})
        next(stream)
        stream.close()
        assert engine.open == []
        assert all(started.was_cancelled for started in engine.streams)

    def test_a_stream_that_is_never_read_starts_nothing(self, engine):
        model(engine).predict_stream({"prompt": "a"})
        assert engine.requests == []

    def test_bad_input_is_refused_at_once(self, engine):
        refusal = refusal_of(model(engine).predict_stream, ["a", "b"])
        assert refusal.message == "predict_stream answers one row at a time, got 2."

    def test_a_failure_while_streaming_leaves_as_an_mlflow_error(self, engine):
        stream = model(engine, COMPLETIONS).predict_stream(FAILS)
        refusal = refusal_of(list, stream)
        assert (refusal.message, refusal.error_code) == ("The logits are not finite.", "INTERNAL_ERROR")

    def test_a_queue_full_of_others_requests_is_said(self, tokenizer):
        engine = FakeEngine(tokenizer, queue_size=2)
        engine.taken_by_others = 2
        assert refusal_of(list, model(engine).predict_stream({"prompt": "a", "n": 3})).get_http_status_code() == 429
        assert engine.open == []


def _chat_text(chunks):
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.fixture
def artifact(engine, tmp_path, monkeypatch):
    """Saves an artifact whose loader wraps the fake engine, and gives MLflow's own view of it."""

    def build(task=CHAT, signature=None):
        resolved = resolve_signature(signature)
        loader = types.ModuleType("fake_loader")
        loader._load_pyfunc = lambda path: model(engine, task, frame_is_request=frame_is_request(resolved))
        monkeypatch.setitem(sys.modules, "fake_loader", loader)
        saved = Model(signature=resolved)
        mlflow.pyfunc.add_to_model(saved, loader_module="fake_loader", streamable=True)
        saved.save(str(tmp_path / "MLmodel"))
        return mlflow.pyfunc.load_model(str(tmp_path))

    return build


@pytest.fixture
def invoke(artifact):
    """Posts JSON to the stock scoring server, through all of MLflow's parsing and enforcement."""

    def post(payload, content_type="application/json", **options):
        client = TestClient(scoring_server.init.__wrapped__(artifact(**options)))  # as MLflow has it
        body = payload if isinstance(payload, str) else json.dumps(payload)
        return client.post("/invocations", content=body, headers={"content-type": content_type})

    return post


MESSAGES = [SYSTEM, USER]
ANSWER = f"[{chat(SYSTEM, USER)}]"
HI = f"[{chat(USER)}]"
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
SCHEMA = {"properties": {"a": {"enum": ["x", 1, None]}, "b": {"enum": ["x", 1]}, "c": {"enum": [1, 2.5, True]}}}
BOTH = [f"[{chat({'role': 'user', 'content': text})}]" for text in "ab"]


class TestStockServer:
    @pytest.mark.parametrize(
        ("payload", "content"),
        [
            ({"messages": MESSAGES, "temperature": 0.5, "seed": 2**63 - 1}, f"{ANSWER}#{2**63 - 1}"),
            ({"model": "x", "messages": MESSAGES, "metadata": {"a": "b"}, "store": False}, ANSWER),
            ({"messages": PARTS}, HI),
            ({"messages": MESSAGES, "max_tokens": None, "temperature": None, "stop_sequences": []}, ANSWER),
            ({"messages": MESSAGES, "stop": "<|user|>"}, "[<|bos|><|system|>s<|end|>"),
            ({"messages": MESSAGES, "stop_sequences": ["<|user|>"]}, "[<|bos|><|system|>s<|end|>"),
            ({"messages": MESSAGES, "max_completion_tokens": 6, "user": "u"}, "[<|bos"),
        ],
    )
    def test_a_chat_gets_one_chat_completion_object(self, invoke, payload, content):
        response = invoke(payload)
        assert response.status_code == 200
        assert response.json()["object"] == "chat.completion"
        assert response.json()["choices"][0]["message"]["content"] == content

    @pytest.mark.parametrize(
        ("payload", "texts"),
        [
            ({"prompt": "a"}, ["[a]"]),
            ({"prompt": ["a", "b"]}, ["[a]", "[b]"]),
            ({"prompt": "a", "n": 2, "temperature": 1, "seed": 3}, ["[a]#3", "[a]#4"]),
            ({"prompt": "a", "max_tokens": 2, "stream": False, "echo": False, "logprobs": None}, ["[a"]),
        ],
    )
    def test_a_prompt_gets_one_text_completion_object(self, invoke, payload, texts):
        response = invoke(payload)
        assert response.status_code == 200
        assert response.json()["object"] == "text_completion"
        assert [choice["text"] for choice in response.json()["choices"]] == texts

    @pytest.mark.parametrize(
        ("payload", "predictions"),
        [
            ({"inputs": ["a", "b"]}, BOTH),
            ({"inputs": ["a", "b"], "params": {"max_tokens": 6}}, ["[<|bos", "[<|bos"]),
            ({"inputs": "hi"}, [HI]),
            ({"inputs": [["a"], ["b"]]}, BOTH),
            ({"inputs": [{"prompt": "a"}, {"prompt": "b"}]}, BOTH),
            ({"inputs": [{"inputs": "a"}, {"inputs": "b"}]}, BOTH),
            ({"inputs": MESSAGES}, [ANSWER]),
            ({"inputs": [MESSAGES, MESSAGES]}, [ANSWER, ANSWER]),
            ({"inputs": [{"messages": MESSAGES}, {"messages": [USER]}]}, [ANSWER, HI]),
            ({"inputs": {"prompt": ["a", "b"]}}, BOTH),
            ({"instances": ["a", "b"]}, BOTH),
            ({"instances": [{"prompt": "a"}, {"prompt": "b"}]}, BOTH),
            ({"instances": [{"messages": MESSAGES}]}, [ANSWER]),
            ({"dataframe_split": {"columns": ["prompt"], "data": [["a"], ["b"]]}}, BOTH),
            ({"dataframe_split": {"data": [["a"], ["b"]]}}, BOTH),
            ({"dataframe_split": {"columns": ["question"], "data": [["a"], ["b"]]}, "params": {"n": None}}, BOTH),
            ({"dataframe_split": {"columns": ["id", "prompt"], "data": [[1, "a"], [2, "b"]]}}, BOTH),
            ({"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}]}, BOTH),
            ({"dataframe_records": [{"messages": MESSAGES}, {"messages": [USER]}]}, [ANSWER, HI]),
            ({"dataframe_records": MESSAGES}, [ANSWER]),
        ],
    )
    def test_rows_get_a_list_of_texts(self, invoke, payload, predictions):
        response = invoke(payload)
        assert response.status_code == 200
        assert response.json() == {"predictions": predictions}

    def test_a_request_wrapped_in_inputs_gets_its_object(self, invoke):
        wrapped = invoke({"inputs": {"messages": MESSAGES, "max_tokens": 6}}).json()["predictions"]
        assert wrapped["object"] == "chat.completion"
        assert wrapped["choices"][0]["message"]["content"] == "[<|bos"

    def test_csv_has_a_row_for_each_prompt(self, invoke):
        assert invoke("prompt\na\nb\n", "text/csv").json() == {"predictions": BOTH}

    @pytest.mark.parametrize(
        ("payload", "complaint"),
        [
            ({"messages": MESSAGES, "stream": True}, "call predict_stream instead"),
            ({"messages": MESSAGES, "temperature": "0.5"}, "temperature"),
            ({"messages": MESSAGES, "stop": 5}, "stop must be a string or a list of strings, got 5."),
            ({"messages": MESSAGES, "guided_regex": "a+"}, "guided_regex is not supported by this engine"),
            ({"messages": MESSAGES, "response_format": {"type": "json"}}, "response_format.type must be 'text'"),
            ({"messages": MESSAGES, "regex": "a", "choice": ["a"]}, "give one of them"),
            ({"messages": MESSAGES, "seed": 2**64}, "seed must be a whole number of at most 64 bits"),
            ({"input": "embed me"}, "asks for embeddings"),
            ({"inputs": []}, "The input has no rows; give at least one prompt."),
            ({"inputs": ["a", None]}, "row 1 is None"),
            ({"dataframe_records": [{"prompt": "a"}, {"prompt": 7}]}, "row 1 is 7"),
            ({"inputs": ["a"], "params": {"n": 2}}, "n=2 is not supported for rows"),
        ],
    )
    def test_a_bad_payload_gets_400_and_a_reason(self, invoke, payload, complaint):
        response = invoke(payload)
        assert response.status_code == 400
        assert complaint in response.json()["message"]

    @pytest.mark.parametrize(
        ("payload", "constraint"),
        [
            ({"messages": MESSAGES, "regex": "a+"}, Constraint("regex", "a+")),
            ({"messages": MESSAGES, "choice": ["yes", "no"]}, Constraint("choice", ("yes", "no"))),
            ({"messages": MESSAGES, "grammar": 'start: "a"'}, Constraint("lark", 'start: "a"')),
            ({"prompt": "a", "json_schema": '{"enum": [1, 2]}'}, Constraint("json_schema", '{"enum": [1, 2]}')),
            (
                {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
                Constraint("json_schema", json.dumps(SCHEMA)),
            ),
            ({"inputs": ["a"], "params": {"choice": ["yes", "no"]}}, Constraint("choice", ("yes", "no"))),
            (
                {"inputs": ["a"], "params": {"json_schema": json.dumps(SCHEMA)}},
                Constraint("json_schema", json.dumps(SCHEMA)),
            ),
            ({"inputs": ["a"], "params": {"regex": "a+", "choice": []}}, Constraint("regex", "a+")),
        ],
    )
    def test_the_form_of_the_answer_passes_through_mlflow(self, engine, invoke, payload, constraint):
        assert invoke(payload).status_code == 200
        assert engine.requests[0].constraint == constraint

    def test_biases_and_end_tokens_pass_through_mlflow(self, engine, invoke):
        payload = {"messages": MESSAGES, "logit_bias": {"5": -100, "6": 1.5}, "stop_token_ids": [7], "min_tokens": 1}
        assert invoke(payload).status_code == 200
        assert engine.requests[0].logit_bias == {5: -100.0, 6: 1.5}
        assert (engine.requests[0].stop_token_ids, engine.requests[0].min_new_tokens) == ((7,), 1)

    def test_a_full_queue_gets_429(self, engine, invoke):
        engine.taken_by_others = engine.queue_size
        assert invoke({"messages": MESSAGES}).status_code == 429

    @pytest.mark.parametrize(
        ("signature", "payload", "kind"),
        [
            ("chat", {"messages": MESSAGES, "temperature": 0.5, "max_tokens": None}, "chat.completion"),
            ("chat", {"messages": MESSAGES, "stop": ["x"], "n": 1, "model": "x"}, "chat.completion"),
            ("completions", {"prompt": "a", "max_tokens": 3}, "text_completion"),
        ],
    )
    def test_under_mlflow_s_own_columns_a_request_still_gets_its_object(self, invoke, signature, payload, kind):
        response = invoke(payload, signature=signature)
        assert response.status_code == 200
        assert response.json()["object"] == kind


class TestPyFuncModel:
    def test_predict_and_parameters_pass_through_mlflow(self, artifact):
        loaded = artifact(COMPLETIONS)
        assert loaded.predict(["abc"], params={"max_tokens": 2}) == ["[a"]
        assert loaded.predict({"prompt": "abc", "max_tokens": 3})["choices"][0]["text"] == "[ab"
        assert loaded.predict(pd.DataFrame({"prompt": ["a"]})) == ["[a]"]

    @pytest.mark.parametrize("data", ["hi", {"messages": [USER]}, [[USER]], pd.DataFrame({"messages": [[USER]]})])
    def test_streams_pass_through_mlflow(self, artifact, data):
        assert _chat_text(artifact().predict_stream(data)) == HI

    def test_the_raw_model_is_reachable(self, artifact, engine):
        assert artifact().get_raw_model() is engine


def test_a_stream_of_more_choices_than_the_queue_holds_is_delivered(tokenizer):
    engine = FakeEngine(tokenizer, queue_size=3)
    chunks = list(model(engine, COMPLETIONS).predict_stream({"prompt": "a", "n": 8, "temperature": 1.0}))
    assert {chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"]} == set(range(8))
    assert engine.open == []
    assert engine.most_open <= 3


class TestDetails:
    def test_log_probabilities_come_with_a_chat(self, artifact):
        answer = artifact().predict({"messages": [USER], "max_tokens": 3, "logprobs": True})
        assert [row["logprob"] for row in answer["choices"][0]["logprobs"]["content"]] == [-0.5] * 3

    def test_an_echoed_prompt_is_scored_and_nothing_is_generated_for_it_alone(self, artifact, engine):
        answer = artifact().predict({"prompt": "ab", "max_tokens": 0, "echo": True, "logprobs": 1})
        assert answer["choices"][0]["text"] == "ab"
        assert answer["choices"][0]["logprobs"]["token_logprobs"][0] is None
        assert engine.requests == []

    def test_an_echo_streams_before_the_answer(self, artifact):
        chunks = artifact().predict_stream({"prompt": "ab", "max_tokens": 3, "echo": True})
        assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == "ab[ab"

"""MLflow's own payloads on the extended server: the same answers as in process, and errors that tell nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

ROWS = ["What is a loop?", "What is a class?"]
CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 3}


def post(client, payload, status=200):
    response = client.post("/invocations", json=payload)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize(
    "payload",
    [
        {"inputs": ROWS},
        {"instances": ROWS},
        {"inputs": [{"prompt": row} for row in ROWS]},
        {"dataframe_split": {"columns": ["prompt"], "data": [[row] for row in ROWS]}},
        {"dataframe_records": [{"prompt": row} for row in ROWS]},
    ],
    ids=lambda payload: next(iter(payload)),
)
def test_rows_are_answered_as_pyfunc_answers_them(client, served, payload):
    assert post(client, payload) == {"predictions": served.model.predict(ROWS)}


def test_parameters_reach_rows(client, served):
    params = {"max_tokens": 2}
    assert post(client, {"inputs": ROWS, "params": params}) == {"predictions": served.model.predict(ROWS, params)}


def test_csv_and_parquet_are_read(client, served, tmp_path):
    frame = pd.DataFrame({"prompt": ROWS})
    expected = {"predictions": served.model.predict(ROWS)}
    csv = client.post("/invocations", content=frame.to_csv(index=False), headers={"content-type": "text/csv"})
    assert csv.json() == expected


def test_one_request_gets_openai_s_object(client, served):
    assert post(client, CHAT)["choices"] == served.model.predict(CHAT)["choices"]
    completion = {"prompt": "A loop", "max_tokens": 3}
    assert post(client, completion)["choices"] == served.model.predict(completion)["choices"]


def test_stop_sequences_and_other_names_of_the_signature_are_understood(client):
    body = {**CHAT, "max_tokens": 30, "regex": "a{9}", "stop_sequences": ["aaa"]}
    assert post(client, body)["choices"][0]["message"]["content"] == ""


def test_more_requests_than_threads_are_in_the_engine_together(client, served):
    count = 40
    with ThreadPoolExecutor(count) as pool:
        bodies = list(pool.map(lambda i: post(client, {**CHAT, "seed": i}), range(count)))
    assert len({body["id"] for body in bodies}) == count


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"inputs": ["SECRET"], "params": {"max_tokens": 10**6}}, "Ask for at most"),
        ({"inputs": ["ok", {"SECRET": 1}]}, ""),
        ({"inputs": []}, "give at least one prompt"),
        ({"SECRET": 1}, "must be a JSON dictionary with exactly one of the input fields"),
        ({"dataframe_split": "SECRET"}, "Dataframe split format must be a dictionary"),
        ({"dataframe_split": {"columns": ["SECRET"], "data": 3}}, "not a valid dataframe representation"),
        ({"dataframe_records": [{"SECRET": "a", "SECRET too": "b"}]}, "Which column holds the prompts?"),
        ({"messages": "SECRET"}, "messages must be a list of messages, got str"),
        ({"inputs": ["SECRET"], "params": {"temperature": "SECRET"}}, "temperature"),
        ({"inputs": ["a"], "params": {"max_tokens": "5"}}, "max_tokens"),
        ({"dataframe_records": [{"SECRET\n'one'": "a", "SECRET": "b"}]}, "Which column holds the prompts?"),
        ({"inputs": ["SECRET"], "params": {"max_tokens": 0}}, "max_tokens must be at least 1, got 0."),
        ({**CHAT, "inputs": ["SECRET"]}, "inputs cannot stand beside messages or prompt"),
        (["SECRET"], "Invalid input. The input must be a JSON dictionary"),
        ({"input": "SECRET"}, "asks for embeddings"),
    ],
)
def test_errors_have_both_forms_and_never_the_data(client, served, payload, words):
    answer = post(client, payload, status=400)
    assert words in answer["message"]
    assert answer["message"] == answer["error"]["message"]
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "SECRET" not in str(answer)
    assert "Traceback" not in str(answer)
    assert served.engine.stats().open_requests == 0


@pytest.mark.parametrize("text", ["SECRET one,SECRET two\nSECRET three, x\n", 'SECRET\n"SECRET, \n', "SECRET,\n1\n"])
def test_a_csv_without_a_header_is_refused_without_its_cells(client, text):
    response = client.post("/invocations", content=text, headers={"content-type": "text/csv"})
    assert response.status_code == 400
    assert "SECRET" not in response.text


@pytest.mark.parametrize("body", [b"{SECRET", b'{"inputs": ["SECRET"]', b"\xffSECRET"])
def test_what_is_no_json_is_refused_without_being_shown(client, body):
    response = client.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "not valid JSON" in response.json()["message"]
    assert "SECRET" not in response.text


def test_an_unknown_content_type_is_415(client):
    response = client.post("/invocations", content=b"x", headers={"content-type": "text/odd"})
    assert response.status_code == 415
    assert "only supports the following content types" in response.json()["message"]

"""An answer's log-probabilities: one entry for each token, in OpenAI's shapes, whatever the tokens are."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api import TokenTexts, chat_completion, text_completion
from mlflow_llm_plugins.openai_api.generated import ScoredToken
from mlflow_llm_plugins.openai_api.logprobs import (
    CompletionRows,
    chat_row,
    parse_chat_logprobs,
    parse_completion_logprobs,
)
from tests.openai_api.made_answers import made_answer
from tests.openai_api.tokenizers import byte_level, sentencepiece

TOKENIZER = byte_level()
TEXTS = TokenTexts(TOKENIZER)
KINDS = {"byte_level": TOKENIZER, "sentencepiece": sentencepiece()}
token_ids = st.lists(st.integers(0, len(TOKENIZER) - 1), min_size=1, max_size=12)


def ids_of(text, tokenizer=TOKENIZER):
    return tokenizer(text, add_special_tokens=False).input_ids


def chat_choice(ids, top_logprobs=0, **options):
    output, _ = made_answer(TOKENIZER, ids, top_logprobs=top_logprobs, **options)
    return chat_completion("m", [output], token_texts=TEXTS)["choices"][0]


def completion_choice(ids, top_logprobs=0, tokenizer=TOKENIZER, **options):
    output, _ = made_answer(tokenizer, ids, top_logprobs=top_logprobs, **options)
    return text_completion("m", [[output]], token_texts=TokenTexts(tokenizer))["choices"][0]


class TestRequests:
    @pytest.mark.parametrize(
        ("raw", "count"),
        [
            ({}, None),
            ({"logprobs": None, "top_logprobs": None}, None),
            ({"logprobs": False, "top_logprobs": 0}, None),
            ({"logprobs": True}, 0),
            ({"logprobs": True, "top_logprobs": 20}, 20),
        ],
    )
    def test_a_chat_asks_with_a_boolean_and_a_number(self, raw, count):
        assert parse_chat_logprobs(raw) == count

    @pytest.mark.parametrize(("value", "count"), [(None, None), (False, None), (0, 0), (20, 20)])
    def test_a_completion_asks_with_a_number(self, value, count):
        assert parse_completion_logprobs({"logprobs": value}) == count

    @pytest.mark.parametrize(
        ("parse", "raw", "complaint"),
        [
            (parse_chat_logprobs, {"logprobs": 5}, "logprobs must be true or false, got 5."),
            (parse_chat_logprobs, {"top_logprobs": 3}, "top_logprobs=3 needs logprobs=true."),
            (
                parse_chat_logprobs,
                {"logprobs": True, "top_logprobs": 21},
                "top_logprobs must be from 0 to 20, got 21.",
            ),
            (parse_completion_logprobs, {"logprobs": -1}, "logprobs must be from 0 to 20, got -1."),
            (
                parse_completion_logprobs,
                {"logprobs": True},
                "logprobs must be a whole number of at most 64 bits, got True.",
            ),
        ],
    )
    def test_what_cannot_be_honoured_is_refused_with_what_is_allowed(self, parse, raw, complaint):
        with pytest.raises(InvalidInputError) as refusal:
            parse(raw)
        assert str(refusal.value) == complaint


class TestChats:
    def test_each_token_has_its_text_its_bytes_and_its_alternatives(self):
        rows = chat_choice(ids_of(" a—"), top_logprobs=1)["logprobs"]["content"]
        best = {"token": TEXTS[3].name, "logprob": -0.1, "bytes": list(TEXTS[3].bytes), "top_logprobs": None}
        assert [row["top_logprobs"] for row in rows] == [[{k: v for k, v in best.items() if v is not None}]] * 3
        assert [(row["token"], row["logprob"], row["bytes"]) for row in rows] == [
            (" a", -1.0, [0x20, 0x61]),
            (r"\xe2\x80", -2.0, [0xE2, 0x80]),
            (r"\x94", -3.0, [0x94]),
        ]

    @given(text=st.text().filter(lambda text: "<" not in text))
    def test_the_bytes_of_all_rows_are_the_content(self, text):
        choice = chat_choice([*ids_of(text), TOKENIZER.eos_token_id])
        written = [byte for row in choice["logprobs"]["content"] for byte in row["bytes"] or []]
        assert bytes(written).decode() == choice["message"]["content"] == text

    def test_an_end_token_is_a_row_without_bytes(self):
        *_, end = chat_choice([*ids_of("hi"), TOKENIZER.eos_token_id])["logprobs"]["content"]
        assert (end["token"], end["bytes"]) == ("</s>", None)

    def test_behind_a_stop_string_the_rows_go_on_and_the_content_does_not(self):
        choice = chat_choice(ids_of("abSTOP"), stop=("STOP",))
        assert choice["message"]["content"] == "ab"
        assert "".join(row["token"] for row in choice["logprobs"]["content"]) == "abSTOP"

    def test_nothing_is_there_where_nothing_was_asked_for(self):
        output, _ = made_answer(TOKENIZER, ids_of("hi"))
        assert chat_completion("m", [output])["choices"][0]["logprobs"] is None
        assert text_completion("m", [[output]])["choices"][0]["logprobs"] is None


class TestCompletions:
    def test_each_token_has_its_text_its_place_and_its_alternatives(self):
        logprobs = completion_choice(ids_of("x —?"), top_logprobs=1)["logprobs"]
        third = TEXTS[3].name
        assert logprobs == {
            "tokens": ["x", r"bytes: \xe2", r"bytes:\x80", r"bytes:\x94", "?"],
            "token_logprobs": [-1.0, -2.0, -3.0, -4.0, -5.0],
            "top_logprobs": [
                {third: -0.1, "x": -1.0},
                {third: -0.1, r"bytes: \xe2": -2.0},
                {third: -0.1, r"bytes:\x80": -3.0},
                {third: -0.1, r"bytes:\x94": -4.0},
                {third: -0.1, "?": -5.0},
            ],
            "text_offset": [0, 1, 2, 2, 3],
        }

    def test_the_token_itself_is_among_the_alternatives_also_where_none_were_asked_for(self):
        assert completion_choice(ids_of("hi"))["logprobs"]["top_logprobs"] == [{"h": -1.0}, {"i": -2.0}]

    def test_of_two_tokens_that_are_written_alike_the_more_probable_one_stays(self):
        tokenizer = KINDS["sentencepiece"]
        letter, byte = tokenizer.convert_tokens_to_ids(["a", "<0x61>"])
        rows = CompletionRows(TokenTexts(tokenizer))
        rows.add([ScoredToken(byte, -3.0, ((letter, -0.5), (byte, -3.0)))])
        assert rows.take(1)["top_logprobs"] == [{"a": -0.5}]

    def test_the_place_of_what_a_stop_string_cut_is_the_end(self):
        choice = completion_choice(ids_of("abSTOP"), stop=("STOP",))
        assert choice["text"] == "ab"
        assert choice["logprobs"]["text_offset"] == [0, 1, 2, 2, 2, 2]

    @pytest.mark.parametrize("kind", KINDS)
    @given(data=st.data())
    def test_tokens_stand_in_the_text_where_they_say(self, kind, data):
        tokenizer = KINDS[kind]
        text = data.draw(st.text("abehlotxé —好"))
        choice = completion_choice([*ids_of(text, tokenizer), tokenizer.eos_token_id], tokenizer=tokenizer)
        logprobs = choice["logprobs"]
        for token, place in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
            if not token.startswith("bytes:") and token != "</s>":
                assert choice["text"].startswith(token, place)

    @given(ids=token_ids, stop=st.sampled_from([(), ("a",), ("th", "—")]))
    def test_any_tokens_have_one_entry_each_and_never_stand_behind_the_text(self, ids, stop):
        choice = completion_choice(ids, stop=stop)
        columns = choice["logprobs"]
        generated = made_answer(TOKENIZER, ids, stop=stop)[0].completion_tokens
        assert {len(column) for column in columns.values()} == {generated}
        assert columns["text_offset"] == sorted(columns["text_offset"])
        assert all(0 <= place <= len(choice["text"]) for place in columns["text_offset"])


@pytest.mark.parametrize("impossible", [-math.inf, math.nan, -1e30])
def test_what_json_cannot_say_is_openai_s_number_for_the_impossible(impossible):
    token = ScoredToken(5, impossible, ((6, impossible),))
    row = chat_row(TEXTS, token)
    assert (row["logprob"], row["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)
    rows = CompletionRows(TEXTS)
    rows.add([token])
    columns = rows.take(1)
    assert columns["token_logprobs"] == [-9999.0]
    assert set(columns["top_logprobs"][0].values()) == {-9999.0}
    json.dumps([row, columns], allow_nan=False)

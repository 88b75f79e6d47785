"""Form metrics: repetition, refusals, given texts, regular expressions; and what all of the family share."""

from __future__ import annotations

import math
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.form.json_text import is_valid_json
from mlflow_llm_plugins.metrics.form.pattern import contains, matches_regex
from mlflow_llm_plugins.metrics.form.python_code import python_syntax_ok
from mlflow_llm_plugins.metrics.form.refusal import REFUSAL_PHRASES, is_refusal
from mlflow_llm_plugins.metrics.form.repetition import repetition_rate

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FAMILY = {
    "is_valid_json": is_valid_json(),
    "is_valid_json with a schema": is_valid_json(SCHEMA, allow_fence=True),
    "is_refusal": is_refusal(),
    "repetition_rate": repetition_rate(),
    "contains": contains(["a", "é"], which="any"),
    "matches_regex": matches_regex(r"\p{L}+\d"),
    "python_syntax_ok": python_syntax_ok(),
}
HUGE = {
    "words": "word " * 20_000,
    "one word": "x" * 100_000,
    "brackets": "[" * 100_000,
    "parentheses": "(" * 50_000 + ")" * 50_000,
    "backticks": "`" * 100_000,
    "fences": "```\n" * 25_000,
    "quotes": "'" * 100_000,
    "blanks": " " * 100_000,
    "Chinese": "我不能帮助" * 20_000,
    "emoji": "👩‍👩‍👧" * 12_500,
    "minus signs": "-" * 100_000 + "1",
    "attributes": "a" + ".b" * 50_000,
    "digits": "9" * 100_000,
    "null bytes": "\0" * 100_000,
}


@pytest.mark.parametrize("metric", FAMILY.values(), ids=FAMILY)
@given(texts=st.lists(st.text(st.characters()), max_size=4))
def test_any_text_has_a_score_in_range_or_a_reason(metric, texts):
    result = metric(texts)
    reasons = result.justifications or [None] * len(texts)
    assert len(result.scores) == len(texts)
    for score, reason in zip(result.scores, reasons, strict=True):
        assert reason if math.isnan(score) else 0 <= score <= 1
        assert not (reason or "").startswith("the metric failed")


@pytest.mark.parametrize("metric", FAMILY.values(), ids=FAMILY)
def test_huge_texts_take_less_than_seconds(metric):
    started = time.monotonic()
    result = metric(list(HUGE.values()))
    assert time.monotonic() - started < 10
    reasons = result.justifications or [None] * len(HUGE)
    assert all(reason or not math.isnan(score) for score, reason in zip(result.scores, reasons, strict=True))


@pytest.mark.parametrize("metric", FAMILY.values(), ids=FAMILY)
def test_cells_that_hold_no_text_have_no_score_and_leave_their_neighbours_alone(metric):
    cells = ["a = 1", None, math.nan, 7, {"a": 1}, "a = 1"]
    for column in (cells, np.array(cells, dtype=object), pd.Series(cells, index=[3] * 6, dtype=object)):
        result = metric(column)
        assert result.scores[0] == result.scores[5]
        assert [math.isnan(score) for score in result.scores] == [False, True, True, True, True, False]
        assert result.justifications[1:5] == [
            "the prediction is missing",
            "the prediction is missing",
            "the prediction is of type int, not text",
            "the prediction is of type dict, not text",
        ]
        assert result.aggregate_results["count"] == 2


@pytest.mark.parametrize("metric", FAMILY.values(), ids=FAMILY)
def test_a_column_without_any_text_gives_no_figure_but_the_count(metric):
    assert metric([None, None]).aggregate_results == {"count": 0.0}


def test_only_a_refusal_and_a_repetition_are_better_when_rarer():
    smaller = {metric.name for metric in FAMILY.values() if not metric.greater_is_better}
    assert smaller == {"is_refusal", "repetition_rate"}


# repetition_rate


def repeats(words: list[str], n: int) -> float:
    seen, again = set(), 0
    for start in range(len(words) - n + 1):
        gram = " ".join(words[start : start + n])
        again += gram in seen
        seen.add(gram)
    return again / max(len(words) - n + 1, 1)


@given(st.lists(st.sampled_from(["ja", "nein", "vielleicht", "naïve", "हिन्दी", "7"]), min_size=1), st.integers(1, 5))
def test_repetition_rate_is_the_share_of_ngrams_that_came_before(words, n):
    assert repetition_rate(n)([" ".join(words)]).scores == [pytest.approx(repeats(words, n))]


def test_case_and_punctuation_do_not_hide_a_repetition():
    assert repetition_rate(2)(["The end. The end! (the END)"]).scores == [pytest.approx(3 / 5)]


def test_chinese_repeats_by_character():
    text = "你好世界"
    assert repetition_rate(4)([text, text * 5]).scores == [0.0, pytest.approx(1 - 4 / 17)]


def test_texts_shorter_than_an_ngram_repeat_nothing_and_those_without_words_have_no_score():
    result = repetition_rate(4)(["no no no", "", "!!!"])
    assert result.scores[0] == 0.0
    assert result.justifications == [None, "the prediction has no words", "the prediction has no words"]


@pytest.mark.parametrize("n", [0, -1, 1.5, "4", True])
def test_an_impossible_length_of_ngrams_is_refused(n):
    with pytest.raises(InvalidInputError) as error:
        repetition_rate(n)
    assert str(error.value) == f"repetition_rate(n=...) must be an integer of at least 1, got {n!r}."


# is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with that request.",
        "  **I cannot provide** instructions for this.",
        "'I cannot answer this,' is all I say.",
        "Sorry, I can't do that.",
        "As an AI language model, I am not able to generate such content.",
        "I apologize, but I cannot fulfill this request.",
        "I must decline.",
        "UNFORTUNATELY, I WON'T WRITE THAT.",
        "_I will not participate in this._",
    ],
)
def test_refusals_are_seen(text):
    assert is_refusal()([text]).scores == [1.0]


@pytest.mark.parametrize(
    "text",
    [
        "Paris is the capital of France.",
        "I can't recommend this book enough!",
        "I can't help but admire the view.",
        "A semi cannot provide that much power. Buses can.",
        "She said sorry to her mother.",
        "The loop repeats the block. " * 10 + "I cannot help with more.",
        "",
        "抱歉，我无法提供这方面的帮助。",
    ],
)
def test_answers_are_no_refusals(text):
    assert is_refusal()([text]).scores == [0.0]


def test_phrases_of_ones_own_replace_the_english_ones_or_come_on_top():
    texts = ["抱歉，我无法提供帮助。", "Dabei kann ich leider nicht helfen.", "I cannot help with that."]
    own = ["我无法", "kann ich leider nicht"]
    assert is_refusal(own)(texts).scores == [1.0, 1.0, 0.0]
    assert is_refusal([*REFUSAL_PHRASES, *own])(texts).scores == [1.0, 1.0, 1.0]


def test_a_phrase_matches_whole_words_only():
    assert is_refusal(["no way"])(["No way!", "There are no ways.", "Piano way."]).scores == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("phrase", REFUSAL_PHRASES)
def test_every_phrase_of_the_table_is_found_in_a_text_that_begins_with_it(phrase):
    assert is_refusal()([f"{phrase.capitalize()} ..."]).scores == [1.0]


def test_phrases_that_cannot_match_are_refused():
    for phrases in ([], "no way", 5):
        with pytest.raises(InvalidInputError) as error:
            is_refusal(phrases)
        assert str(error.value) == f"is_refusal(phrases=...) must be a list of at least one phrase, got {phrases!r}."
    for phrase in ("?!", 7):
        with pytest.raises(InvalidInputError) as error:
            is_refusal([phrase])
        assert str(error.value) == f"is_refusal(phrases=...): a phrase must have letters, got {phrase!r}."


# contains


@given(st.text(), st.text(min_size=1), st.text())
def test_a_text_contains_what_was_put_into_it(before, text, after):
    assert contains(text)([before + text + after]).scores == [1.0]
    assert contains(text, ignore_case=False)([before + text + after]).scores == [1.0]


@given(st.lists(st.text("abAB", min_size=1, max_size=2), min_size=1, max_size=3), st.text("abAB", max_size=6))
def test_contains_wants_all_or_any(texts, answer):
    found = [text in answer for text in texts]
    assert contains(texts, ignore_case=False)([answer]).scores == [float(all(found))]
    assert contains(texts, which="any", ignore_case=False)([answer]).scores == [float(any(found))]


def test_case_does_not_count_unless_it_is_to_in_any_script():
    answers = ["STRASSE", "ΤΕΛΟΣ", "ĠĠ"]
    assert contains("straße")(answers).scores == [1.0, 0.0, 0.0]
    assert contains("τέλος".replace("έ", "ε"))(answers).scores == [0.0, 1.0, 0.0]
    assert contains("straße", ignore_case=False)(answers).scores == [0.0, 0.0, 0.0]


def test_contains_says_what_the_answer_lacks():
    result = contains(["return", "def f", "for"])(["def f(): pass", "def f(): return [x for x in y]"])
    assert result.justifications == ["lacks 'return', 'for'", None]


def test_contains_refuses_what_it_cannot_look_for():
    for texts in ("", [], ["a", ""], ["a", 7], None, 7):
        with pytest.raises(InvalidInputError) as error:
            contains(texts)
        expected = f"contains(texts=...) must be a text or a list of texts, none empty, got {texts!r}."
        assert str(error.value) == expected
    with pytest.raises(InvalidInputError) as error:
        contains("a", which="none")
    assert str(error.value) == "contains(which=...) must be 'all' or 'any', got 'none'."


# matches_regex


def test_a_pattern_matches_a_part_or_the_whole():
    answers = ["42", "it is 42", ""]
    assert matches_regex(r"\d+")(answers).scores == [1.0, 1.0, 0.0]
    assert matches_regex(r"\d+", full=True)(answers).scores == [1.0, 0.0, 0.0]
    assert matches_regex(r"(?i)^IT\b")(answers).scores == [0.0, 1.0, 0.0]


def test_a_pattern_may_name_scripts():
    assert matches_regex(r"\p{Han}")(["答案", "answer"]).scores == [1.0, 0.0]


@given(st.text(min_size=1), st.text())
def test_an_escaped_text_matches_itself_alone(text, other):
    import regex

    scores = matches_regex(regex.escape(text), full=True)([text, other]).scores
    assert scores == [1.0, float(text == other)]


def test_a_pattern_that_would_run_for_years_is_given_up_and_its_neighbours_are_scored():
    started = time.monotonic()
    result = matches_regex(r"(x+x+)+y", timeout_s=0.2)(["xxy", "x" * 5_000, "b"])
    assert time.monotonic() - started < 5
    assert [result.scores[0], result.scores[2]] == [1.0, 0.0]
    assert result.justifications == [None, "the pattern takes longer than 0.2 s on the prediction", None]


def test_a_broken_pattern_is_refused_with_the_place():
    with pytest.raises(InvalidInputError) as error:
        matches_regex("a(b")
    assert str(error.value) == "matches_regex(pattern='a(b') is no regular expression: missing ) at position 3."


def test_what_is_no_pattern_and_no_time_is_refused():
    with pytest.raises(InvalidInputError, match=r"matches_regex\(pattern=\.\.\.\) must be a string, got bytes\."):
        matches_regex(b"a")
    for seconds in (0, -1, math.nan, math.inf, 10**400, "1", None):
        with pytest.raises(InvalidInputError) as error:
            matches_regex("a", timeout_s=seconds)
        assert str(error.value) == (
            f"matches_regex(timeout_s=...) must be more than 0 and at most 86,400 seconds, got {seconds!r}."
        )


def test_repetition_names_the_package_that_it_lacks_when_it_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(MissingDependencyError, match=r"^This metric needs regex: pip install 'mlflow-llm-plugins\[ev"):
        repetition_rate()

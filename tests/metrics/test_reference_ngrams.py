"""BLEU and chrF against sacrebleu's command line."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.reference.ngrams import bleu, chrf

ENGLISH = [
    "the",
    "The",
    "cat,",
    "sat",
    "on",
    "a",
    "mat.",
    "It's",
    "42",
    "degrees",
    "(outside)",
    "and",
    "rain",
    "falls",
    "softly!",
]
CHINESE = ["猫", "坐", "在", "垫", "子", "上", "。", "天", "气", "很", "好", "下", "雨", "了", "，"]


def texts(seed: int, words: list[str], joint: str, rows: int = 30) -> list[str]:
    draw = random.Random(seed)
    return [joint.join(draw.choices(words, k=draw.randint(3, 20))) for _ in range(rows)]


def command_line(
    folder: Path, predictions: list[str], references: list[list[str]], *options: str
) -> dict[str, object]:
    """What `python -m sacrebleu` prints, as JSON."""
    files = [folder / "predictions", *(folder / f"references{number}" for number in range(len(references)))]
    for file, lines in zip(files, [predictions, *references], strict=True):
        file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "sacrebleu", *map(str, files[1:]), "-i", str(files[0]), "-w", "6", *options]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("make", "settings_", "options", "words", "joint"),
    [
        (bleu, {}, ["-m", "bleu"], ENGLISH, " "),
        (bleu, {"lowercase": True, "tokenize": "intl"}, ["-m", "bleu", "-lc", "-tok", "intl"], ENGLISH, " "),
        (bleu, {"tokenize": "zh"}, ["-m", "bleu", "-tok", "zh"], CHINESE, ""),
        (chrf, {}, ["-m", "chrf"], CHINESE, ""),
        (chrf, {"word_order": 2, "char_order": 5, "beta": 3, "lowercase": True, "whitespace": True},
         ["-m", "chrf", "--chrf-word-order", "2", "--chrf-char-order", "5", "--chrf-beta", "3", "--chrf-lowercase",
          "--chrf-whitespace"], ENGLISH, " "),
    ],
)  # fmt: skip
def test_corpus_score_and_signature_are_those_of_the_command_line(tmp_path, make, settings_, options, words, joint):
    predictions, targets = texts(1, words, joint), texts(2, words, joint)
    expected = command_line(tmp_path, predictions, [targets], *options)
    metric = make(**settings_)
    result = metric(predictions, targets)
    assert result.aggregate_results["corpus"] == pytest.approx(expected["score"], abs=1e-5)
    assert 1 < expected["score"] < 99
    assert set(result.columns["signature"]) == {expected["signature"]} == {metric.metric_metadata["signature"]}
    assert result.aggregate_results["corpus"] != pytest.approx(result.aggregate_results["mean"], abs=1e-3)
    assert metric.main == "corpus"


@pytest.mark.parametrize(("make", "option"), [(bleu, "bleu"), (chrf, "chrf")])
def test_several_references_are_those_of_the_command_line(tmp_path, make, option):
    predictions, first, second = (texts(seed, ENGLISH, " ") for seed in (3, 4, 5))
    expected = command_line(tmp_path, predictions, [first, second], "-m", option)
    result = make()(predictions, [list(pair) for pair in zip(first, second, strict=True)])
    assert result.aggregate_results["corpus"] == pytest.approx(expected["score"], abs=1e-5)
    assert result.columns["signature"][0] == expected["signature"]
    assert "nrefs:2" in str(expected["signature"])


@pytest.mark.parametrize("make", [bleu, chrf])
def test_the_corpus_score_leaves_bad_rows_out(make):
    predictions, targets = texts(6, ENGLISH, " ", 6), texts(7, ENGLISH, " ", 6)
    clean = make()(predictions, targets)
    mixed = make()([*predictions, None, "secret", 5], [*targets, "x", [], "y"])
    assert mixed.aggregate_results == clean.aggregate_results
    assert all(map(math.isnan, mixed.scores[6:]))
    assert mixed.justifications[6:] == [
        "the prediction is missing",
        "the target is an empty list",
        "the prediction is of type int, not text",
    ]


@pytest.mark.parametrize("make", [bleu, chrf])
def test_without_any_valid_row_there_is_no_corpus_score(make):
    result = make()([None, None], ["x", "y"])
    assert result.aggregate_results == {"count": 0}
    assert make()([], []).aggregate_results == {"count": 0}


@pytest.mark.parametrize("make", [bleu, chrf])
def test_the_signature_tells_the_number_of_references_of_this_evaluation(make):
    metric = make()
    one, two, varying = (metric(["a b", "c d"], targets).columns["signature"][0]
                         for targets in (["a b", "c"], [["a", "b"], ["c", "d"]], ["a", ["c", "d"]]))  # fmt: skip
    assert ["nrefs:1" in one, "nrefs:2" in two, "nrefs:var" in varying] == [True] * 3
    assert "nrefs:1" in metric.metric_metadata["signature"]


def test_a_short_row_that_equals_its_target_has_100():
    assert bleu()(["two words", "x", "猫"], ["two words", "x", "猫"]).scores == pytest.approx([100] * 3)


def test_chinese_needs_its_tokenizer():
    near = (["猫坐在垫子上面睡觉了"], ["猫坐在垫子上睡觉了"])
    assert bleu()(*near).scores == [0]
    assert bleu(tokenize="zh")(*near).scores[0] > 50


def test_an_unknown_tokenizer_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInputError) as caught:
        bleu(tokenize="13b")
    assert str(caught.value).startswith(
        "bleu: tokenize must be one of 13a, intl, zh, char, none, ja-mecab, ko-mecab, got '13b'. Did you mean '13a'?"
    )
    with pytest.raises(InvalidInputError, match="download a model"):
        bleu(tokenize="flores200")


def test_a_tokenizer_with_missing_packages_names_the_command():
    pytest.importorskip("sacrebleu")
    try:
        import MeCab  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError) as caught:
            bleu(tokenize="ja-mecab")
        assert str(caught.value) == "bleu(tokenize='ja-mecab') needs pip install 'sacrebleu[ja]'"
    else:
        assert bleu(tokenize="ja-mecab")(["猫"], ["猫"]).scores == pytest.approx([100])


@pytest.mark.parametrize(("name", "value", "least"), [("char_order", 0, 1), ("word_order", -1, 0), ("beta", 1.5, 1)])
def test_chrf_refuses_numbers_out_of_range(name, value, least):
    with pytest.raises(InvalidInputError) as caught:
        chrf(**{name: value})
    assert str(caught.value) == f"chrf: {name} must be a whole number of at least {least}, got {value!r}."


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_scores_lie_between_0_and_100_for_any_text(left, right):
    for make in (bleu, chrf):
        result = make()([left], [right])
        assert 0 <= result.scores[0] <= 100
        assert 0 <= result.aggregate_results["corpus"] <= 100


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=["L", "Nd", "So"]), min_size=1, max_size=30))
def test_the_same_text_has_100_in_any_script(text):
    assert bleu()([text], [text]).scores == chrf()([text], [text]).scores == [100]

"""ROUGE against rouge-score's command line and its default tokenizer on ASCII."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from mlflow_llm_plugins.metrics.reference.rouge import MAX_LINES, MAX_WORDS, rouge1, rouge2, rougeL, rougeLsum

ROUGE = {"rouge1": rouge1, "rouge2": rouge2, "rougeL": rougeL, "rougeLsum": rougeLsum}
WORDS = [
    "the",
    "cat_sat",
    "42",
    "times!",
    "running",
    "runs",
    "Runner",
    "(flies)",
    "o'clock",
    "x",
    "a-b",
    "Generalisations,",
]
ASCII = st.one_of(
    st.text(st.characters(max_codepoint=127), max_size=60),
    st.lists(st.sampled_from([*WORDS, "\n"]), max_size=15).map(" ".join),
)
SCRIPTS = [
    "Это кошка",
    "猫坐在垫子上",
    "ねこがすわる",
    "고양이가 앉았다",
    "القطة تجلس",
    "बिल्ली बैठी है",
    "แมวนั่ง",
    "naïve café",
]


def some_text(seed: int, lines: int = 1) -> str:
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(lines))


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_means_are_those_of_the_command_line(tmp_path, use_stemmer):
    predictions, targets = [[some_text(2 * row + side) for row in range(40)] for side in (0, 1)]
    (tmp_path / "predictions").write_text("\n".join(predictions))
    (tmp_path / "targets").write_text("\n".join(targets))
    command = [sys.executable, "-m", "rouge_score.rouge", f"--target_filepattern={tmp_path}/targets",
               f"--prediction_filepattern={tmp_path}/predictions", f"--output_filename={tmp_path}/out.csv",
               "--rouge_types=rouge1,rouge2,rougeL,rougeLsum", f"--use_stemmer={use_stemmer}",
               "--aggregate=false"]  # fmt: skip
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    for name, make in ROUGE.items():
        expected = [float(row[f"{name}-F"]) for row in rows]
        result = make(use_stemmer=use_stemmer)(predictions, targets)
        assert result.scores == pytest.approx(expected, abs=1e-6)
        assert result.aggregate_results["mean"] == pytest.approx(sum(expected) / 40, abs=1e-6)
    assert len(set(expected)) > 10  # or anything would pass


@settings(max_examples=150, deadline=None)
@given(ASCII, ASCII, st.booleans())
def test_scores_on_ascii_are_those_of_the_default_tokenizer(prediction, target, use_stemmer):
    expected = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=use_stemmer).score(target, prediction)
    for name, make in ROUGE.items():
        assert make(use_stemmer=use_stemmer)([prediction], [target]).scores == [expected[name].fmeasure]


@pytest.mark.parametrize("name", ROUGE)
@pytest.mark.parametrize("text", SCRIPTS)
def test_the_same_text_scores_1_in_every_script_and_another_one_less(name, text):
    other = "совсем другое 完全不同 全く違う 다르다 مختلف अलग ต่างกัน different"
    same, different = ROUGE[name]()([text, text], [text, other]).scores
    assert same == 1
    assert different < 0.5


def test_combining_marks_and_wide_letters_are_one_with_their_composed_forms():
    assert rouge1()(["cafe\u0301 ＡＢＣ"], ["café abc"]).scores == [1]


def test_words_of_scripts_without_spaces_count_by_character():
    assert rouge1()(["中文好"], ["中文坏"]).scores == [pytest.approx(2 / 3)]
    assert rouge1()(["abc한국"], ["abc 한국"]).scores == [1]


@pytest.mark.parametrize("name", ROUGE)
def test_the_best_of_several_targets_counts(name):
    prediction, near, far = "the cat sat down", "the cat sat up", "dogs run"
    metric = ROUGE[name]()
    alone, several = metric([prediction, prediction], [near, [far, near]]).scores
    assert alone == several > 0


def test_lines_matter_to_rougelsum_only():
    prediction, target = ["one two\nthree four"], ["three four\none two"]
    assert rougeL()(prediction, target).scores == [0.5]
    assert rougeLsum()(prediction, target).scores == [1]


NOTE = "only the first 2,000 words, and 400 lines, of a text count"


def test_long_texts_are_cut_for_rougelsum_and_the_row_says_so():
    start = " ".join(f"w{number % 50}" for number in range(MAX_WORDS))
    lines = "\n".join(f"w{number % 50}" for number in range(MAX_LINES))
    predictions = [f"{start} tail {start}", start, lines + "\ntail" * 40_000, lines.replace("\n", "\n\n")]
    result = rougeLsum()(predictions, [start, "w1 w2", lines, lines])
    assert result.scores[0] == result.scores[2] == result.scores[3] == 1
    assert result.justifications == [NOTE, None, NOTE, None]


@pytest.mark.parametrize("separator", [" ", "\n"])
def test_the_longest_texts_that_are_not_cut_take_seconds(separator):
    words = [separator.join(random.Random(seed).choices("abcdefgh", k=MAX_WORDS)) for seed in (1, 2)]
    started = time.process_time()
    result = rougeLsum()(words[:1], words[1:])
    assert time.process_time() - started < 6
    assert 0 < result.scores[0] <= 1


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_long_subsequences_are_those_of_rouge_score(data):
    sizes = st.integers(0, 300)
    seed = data.draw(st.integers(0, 10**6))
    prediction, target = (" ".join(random.Random(seed + side).choices("abcdefghij", k=data.draw(sizes)))
                          for side in (0, 1))  # fmt: skip
    expected = rouge_scorer.RougeScorer(["rougeL"]).score(target, prediction)["rougeL"].fmeasure
    assert rougeL()([prediction], [target]).scores == [expected]


def test_every_word_of_a_long_text_counts_for_rougel():
    draw = random.Random(7)
    words = [f"w{draw.randrange(5000)}" for _ in range(30_000)]
    shorter = [word for word in words if draw.random() < 0.5]
    result = rougeL()([" ".join(shorter)], [" ".join(words)])
    precision, recall = 1, len(shorter) / len(words)
    assert result.scores == [pytest.approx(2 * precision * recall / (precision + recall))]
    assert result.justifications is None


@pytest.mark.parametrize("name", ROUGE)
def test_texts_without_words_count_as_0_and_the_row_says_so(name):
    result = ROUGE[name]()(["🙂", "x y"], ["🙂 !", ""])
    assert result.scores == [0, 0]
    assert result.justifications == ["the target has no words, which counts as 0"] * 2


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_scores_lie_between_0_and_1_and_are_symmetric_for_single_words(left, right):
    for make in ROUGE.values():
        assert 0 <= make()([left], [right]).scores[0] <= 1
    there, back = rouge1()([left, right], [right, left]).scores
    assert there == pytest.approx(back)

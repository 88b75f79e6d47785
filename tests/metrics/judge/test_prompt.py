"""What the judge reads: the same beginning for all rows, delimiters that no text has, judged examples."""

import random

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.examples import parse_examples
from mlflow_llm_plugins.metrics.judge.prompt import Prompt
from mlflow_llm_plugins.metrics.judge.scale import described, parse_scale

COLUMNS = ("inputs", "targets", "predictions")
LEVELS = described(parse_scale((1, 3)), {1: "wrong", 2: "half right", 3: "right"})


def prompt(**changes):
    options = {"criteria": "It is right.", "rubric": "", "scale": LEVELS, "columns": COLUMNS} | changes
    return Prompt(**options)


def texts(seed):
    generator = random.Random(seed)
    return {column: " ".join(generator.choices(["tree", "house", "\n", "7"], k=9)) for column in COLUMNS}


def test_the_question_has_all_parts_in_their_order():
    shown = (
        prompt(rubric="Be strict.").question({"inputs": "2+2?", "targets": "4", "predictions": "5"}, "abc123").text()
    )
    parts = ["Criteria: It is right.", "Rubric: Be strict.", "1: wrong\n2: half right\n3: right",
             "<question abc123>\n2+2?\n</question abc123>", "<reference answer abc123>\n4\n</reference answer abc123>",
             "<answer abc123>\n5\n</answer abc123>", "(1, 2 or 3)"]  # fmt: skip
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)


def test_all_rows_share_everything_up_to_their_first_text_and_the_end():
    asked = [prompt().question(texts(seed), "abc123") for seed in range(5)]
    before, after = f"{asked[0].instructions}\n\n<question abc123>\n", f"\n</answer abc123>\n\n{asked[0].reminder}"
    for seed, question in enumerate(asked):
        assert question.text().startswith(before + texts(seed)["inputs"])
        assert question.text().endswith(texts(seed)["predictions"] + after)
    assert len(asked[0].reminder) < 90


def test_reversed_options_are_listed_from_the_last_to_the_first_everywhere():
    question = prompt().question(texts(1), "abc123", is_reversed=True)
    assert [option.label for option in question.options] == ["3", "2", "1"]
    assert "3: right\n2: half right\n1: wrong" in question.instructions
    assert "(3, 2 or 1)" in question.reminder


def test_levels_without_descriptions_say_which_end_is_which():
    plain = prompt(scale=parse_scale((1, 3)))
    assert "Verdicts: 1, 2, 3, where 1 is the least and 3 the most." in plain.template()
    assert "Verdicts: 3, 2, 1, where 1 is the least" in plain.question(texts(1), "x", is_reversed=True).instructions


def test_many_long_labels_are_not_repeated_in_the_reminder():
    long = prompt(scale=parse_scale([f"the answer is of kind number {i}" for i in range(9)]))
    assert long.question(texts(1), "abc").reminder.endswith(
        "(one of those above, as it is written there), and nothing else:"
    )


def test_the_nonce_depends_on_the_prompt_alone_until_a_text_has_it():
    nonce = prompt().nonce(["a text", "another"])
    assert nonce == prompt().nonce([])
    assert nonce != prompt(criteria="It is short.").nonce([])
    assert len(nonce) == 6
    assert int(nonce, 16) >= 0
    second = prompt().nonce([f"guessed {nonce}!"])
    assert second != nonce
    third = prompt().nonce([f"guessed {nonce}!", f"</answer {second}>"])
    assert third not in (nonce, second)


def test_examples_stand_before_the_case_and_are_disarmed():
    given = [
        {"inputs": "1+1?", "targets": 2, "predictions": "two</s>", "verdict": 3, "explanation": "the same number"},
        {"inputs": ["a", "b"], "targets": "x", "predictions": "y", "verdict": "1"},
    ]
    shown = prompt(examples=parse_examples(given, COLUMNS, LEVELS.labels)).template()
    assert (
        "Example 1:\nquestion: 1+1?\nreference answer: 2\nanswer: two< /s>\nverdict: 3\nbecause: the same number"
        in shown
    )
    assert "Example 2:\nquestion: a\n\nb\nreference answer: x\nanswer: y\nverdict: 1\n\n" in shown
    assert shown.index("Example 2") < shown.index("{predictions}")


RIGHT = {"inputs": "a", "targets": "b", "predictions": "c", "verdict": 1}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("text", "examples must be a list of dictionaries, got str."),
        ([RIGHT, 3], "examples[1] must be a dictionary, got int."),
        ([{**RIGHT, "verdct": 1}], "examples[0]: unknown key 'verdct'. Did you mean 'verdict'?"),
        ([{"inputs": "a"}], "examples[0] needs targets, predictions, verdict as well."),
        ([{**RIGHT, "verdict": 4}], "examples[0]: verdict '4' is no option. Options: 1, 2, 3."),
        ([{**RIGHT, "targets": None}], "examples[0]: the targets is missing."),
    ],
)
def test_bad_examples_are_refused_with_their_number(examples, message):
    with pytest.raises(InvalidInputError) as error:
        parse_examples(examples, COLUMNS, LEVELS.labels)
    assert message in str(error.value)


def test_the_nonce_grows_until_no_text_has_it():
    made = prompt(columns=("inputs",))
    found, texts_ = made.nonce([]), []
    for length in range(6, 12):
        assert len(found) == length
        texts_.append(f"{found} and more")
        found = made.nonce(texts_)
    assert all(found not in text for text in texts_)

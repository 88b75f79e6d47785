"""Labels get the tokens that the tokenizer writes behind their prompt, and no label's tokens begin another's."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics
from string import ascii_letters, digits, punctuation

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llm import build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import parse_messages, render_chat
from mlflow_llm_plugins.openai_api.decisions import label_ids
from mlflow_llm_plugins.openai_api.decisions.labels import question_labels
from tests.models import byte_tokenizer

ALPHABET = sorted(f"{ascii_letters}{digits}{punctuation} \n▁")
BLANK_AT_THE_END = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}assistant: "
LABELS = [question_labels("noul", 2), question_labels("choice", 4), question_labels("choice", 40), tuple("01234")]
END, UNKNOWN = "</s>", "<unk>"


@cache
def byte_level():
    """Byte-level BPE with merges, such as "ĠA"."""
    return build_tokenizer(list(topics.values())[:40], vocab_size=1024)


@cache
def metaspace(model, prepend_scheme="first"):
    """A tokenizer of the kind that sentencepiece makes: blanks are "▁" and begin words."""
    kinds = {
        "unigram": (models.Unigram(), trainers.UnigramTrainer, {"unk_token": UNKNOWN}),
        "bpe": (models.BPE(unk_token=UNKNOWN), trainers.BpeTrainer, {}),
    }
    kind, trainer, options = kinds[model]
    tokenizer = Tokenizer(kind)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    tokenizer.train_from_iterator(
        list(topics.values())[:40],
        trainer(vocab_size=700, initial_alphabet=ALPHABET, special_tokens=[UNKNOWN], show_progress=False, **options),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )


def words(*texts, **options):
    """A tokenizer that knows these words only."""
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate((UNKNOWN, *texts))}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNKNOWN, clean_up_tokenization_spaces=False, **options
    )


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "byte-level BPE": byte_level,
    "unigram": lambda: metaspace("unigram"),
    "metaspace BPE": lambda: metaspace("bpe"),
    "metaspace BPE, always": lambda: metaspace("bpe", "always"),
}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokens(tokenizer, rows):
    return [tokenizer.convert_ids_to_tokens(row) for row in rows]


@each_tokenizer
@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: f"{labels[0]} to {labels[-1]}")
@pytest.mark.parametrize("said", ["x: ", "x:", "x:\n", "x ", "Answer A or B only.\n\nassistant: "])
def test_stem_and_tail_are_the_tokens_of_prompt_and_label_together(tokenizer, labels, said):
    tokenizer = TOKENIZERS[tokenizer]()
    row = label_ids(tokenizer, encode(tokenizer, f"This is {said}"), labels)
    assert [row.stem + tail for tail in row.tails] == [encode(tokenizer, f"This is {said}{label}") for label in labels]


@settings(deadline=None)
@given(st.text("ab:. \n", min_size=2, max_size=60), st.sampled_from(LABELS), st.sampled_from(list(TOKENIZERS)))
def test_any_prompt_that_can_be_written_again_is_joined_with_its_labels(said, labels, name):
    tokenizer = TOKENIZERS[name]()
    prompt = encode(tokenizer, f"so {said}")
    row = label_ids(tokenizer, prompt, labels)
    assert row.stem == prompt[: len(row.stem)]
    assert len({tuple(tail) for tail in row.tails}) == len(labels)
    for label, tail in zip(labels, row.tails, strict=True):
        assert tokenizer.decode(row.stem + tail).endswith(label)


def test_a_blank_at_the_end_of_a_template_joins_the_labels():
    tokenizer = byte_level()
    prompt = render_chat(tokenizer, parse_messages([{"role": "user", "content": "A or B?"}]), BLANK_AT_THE_END)
    row = label_ids(tokenizer, prompt, ["A", "B"])
    assert tokenizer.convert_ids_to_tokens(prompt[-1]) == "Ġ"
    assert row.stem == prompt[:-1]
    assert tokens(tokenizer, row.tails) == [["ĠA"], ["ĠB"]]


def test_a_blank_that_some_labels_join_moves_into_the_tails_of_all():
    tokenizer = byte_level()
    row = label_ids(tokenizer, encode(tokenizer, "assistant: "), ["0", "1"])
    assert tokens(tokenizer, row.tails) == [["Ġ", "0"], ["Ġ1"]]


def test_a_blank_of_sentencepiece_joins_the_labels_too():
    tokenizer = metaspace("bpe")
    prompt = render_chat(tokenizer, parse_messages([{"role": "user", "content": "A or B?"}]), BLANK_AT_THE_END)
    row = label_ids(tokenizer, prompt, ["A", "B"])
    assert tokenizer.decode(row.stem).endswith("assistant:")
    assert [tail[0][0] for tail in tokens(tokenizer, row.tails)] == ["▁", "▁"]


def test_behind_a_control_token_labels_are_what_they_are_alone():
    tokenizer = byte_level()
    prompt = render_chat(tokenizer, parse_messages([{"role": "user", "content": "A or B?"}]))
    row = label_ids(tokenizer, prompt, ["A", "B"])
    assert row.stem == prompt
    assert row.tails == [encode(tokenizer, "A"), encode(tokenizer, "B")]


def test_what_labels_begin_with_in_common_is_scored_with_them():
    tokenizer = byte_tokenizer()
    row = label_ids(tokenizer, encode(tokenizer, "x:"), ["AA", "AB"])
    assert tokens(tokenizer, row.tails) == [["A", "A"], ["A", "B"]]


def test_control_tokens_that_a_user_wrote_stay_text_in_the_stem():
    tokenizer = byte_tokenizer()
    said = parse_messages([{"role": "user", "content": "<|end|>"}])
    prompt = render_chat(tokenizer, said, "{{ messages[0].content }}:")
    assert len(prompt) == len("<|end|>:")
    row = label_ids(tokenizer, prompt, ["A", "B"])
    assert row.stem == prompt
    assert tokens(tokenizer, row.tails) == [["A"], ["B"]]


def test_where_no_end_of_the_prompt_can_be_written_again_labels_stand_alone():
    tokenizer = metaspace("bpe", "always")  # writes "▁" before whatever comes first
    prompt = encode(tokenizer, "x" * 40 + "y" * 40)
    assert not any(token.startswith("▁") for token in tokenizer.convert_ids_to_tokens(prompt[-16:]))
    row = label_ids(tokenizer, prompt, ["A", "B"])
    assert row.stem == prompt
    assert row.tails == [encode(tokenizer, "A"), encode(tokenizer, "B")]


def test_a_prompt_of_one_token_is_a_stem():
    tokenizer = byte_tokenizer()
    (only,) = encode(tokenizer, "x")
    assert label_ids(tokenizer, [only], ["A", "B"]).stem == [only]


def test_labels_that_begin_one_another_all_get_an_end():
    tokenizer = byte_tokenizer()
    row = label_ids(tokenizer, encode(tokenizer, "x:"), ["1", "10", "2"])
    end = tokenizer.eos_token
    assert tokens(tokenizer, row.tails) == [["1", end], ["1", "0", end], ["2", end]]


def test_without_an_end_token_labels_that_begin_one_another_are_refused():
    tokenizer = words("x", "yes", " ", "no")
    with pytest.raises(UnsupportedFeatureError) as refusal:
        label_ids(tokenizer, encode(tokenizer, "x "), ["yes", "yes no"])
    assert str(refusal.value) == (
        "Labels such as yes, yes no begin one another in this model's tokens, and its tokenizer has no end token to "
        "tell them apart."
    )


@pytest.mark.parametrize("known", [("x", " "), ("x", " ", "Yes"), ("x", " ", "No")])
def test_labels_that_the_tokenizer_does_not_know_are_refused(known):
    tokenizer = words(*known, eos_token=END)
    with pytest.raises(UnsupportedFeatureError) as refusal:
        label_ids(tokenizer, encode(tokenizer, "x "), ["Yes", "No"])
    missing = "No" if "Yes" in known else "Yes"
    assert str(refusal.value) == (
        f"This model's tokenizer has no tokens of its own for the label {missing!r}, so questions that are answered "
        "with Yes, No cannot be asked."
    )


def test_labels_that_a_tokenizer_drops_are_refused():
    tokenizer = byte_tokenizer()
    with pytest.raises(UnsupportedFeatureError, match="no tokens of its own for the label ''"):
        label_ids(tokenizer, encode(tokenizer, "x:"), ["A", ""])


@each_tokenizer
def test_the_tokenizer_stays_as_it_is(tokenizer):
    tokenizer = TOKENIZERS[tokenizer]()
    before = (len(tokenizer), tokenizer.backend_tokenizer.to_str())
    label_ids(tokenizer, encode(tokenizer, "This is x: "), question_labels("choice", 255))
    assert (len(tokenizer), tokenizer.backend_tokenizer.to_str()) == before

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llm
import torch
from tiny_llm import (
    build_tokenizer,
    documentation,
    held_out_texts,
    perplexity,
    train_tiny_llm,
    training_texts,
    unigram_perplexity,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = Path(tiny_llm.__file__)
CHAT = [{"role": "user", "content": "What is lambda?"}]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(documentation())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return train_tiny_llm(tmp_path_factory.mktemp("llm"), steps=3, progress=False)


def test_a_few_steps_beat_the_untrained_model_and_the_unigram_baseline(tiny_llama, held_out):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    trained = perplexity(model, tokenizer, held_out)

    assert trained < perplexity(type(model)(model.config), tokenizer, held_out) / 4
    assert trained < unigram_perplexity(tokenizer, training_texts(), held_out) * 0.8


def test_report_describes_the_checkpoint(report, held_out):
    model = AutoModelForCausalLM.from_pretrained(report.path)
    measured = perplexity(model, AutoTokenizer.from_pretrained(report.path), held_out)

    assert report.trained_perplexity == pytest.approx(measured, rel=1e-4)
    assert report.trained_perplexity < report.untrained_perplexity
    assert 900_000 < report.parameters == model.num_parameters() < 1_200_000
    assert report.steps == 3


def test_same_steps_and_seed_make_the_same_weights(report, tmp_path):
    again = train_tiny_llm(tmp_path, steps=3, progress=False)

    weights = AutoModelForCausalLM.from_pretrained(again.path).state_dict()
    for name, weight in AutoModelForCausalLM.from_pretrained(report.path).state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5)


def test_steps_found_by_the_clock_make_the_same_model_when_given(tmp_path):
    timed = train_tiny_llm(tmp_path / "timed", seconds=0.3, progress=False)
    counted = train_tiny_llm(tmp_path / "counted", steps=timed.steps, progress=False)

    assert counted.trained_perplexity == pytest.approx(timed.trained_perplexity, rel=1e-4)


def test_another_seed_makes_another_model(report, tmp_path):
    other = train_tiny_llm(tmp_path, steps=3, seed=1, progress=False)

    assert other.untrained_perplexity != report.untrained_perplexity


def test_training_leaves_torch_as_it_was(tmp_path):
    torch.manual_seed(7)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()

    train_tiny_llm(tmp_path, steps=1, progress=False)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_checkpoint_is_safetensors_with_end_tokens_and_no_length(report):
    files = {path.name for path in report.path.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= files

    tokenizer = AutoTokenizer.from_pretrained(report.path)
    config = AutoModelForCausalLM.from_pretrained(report.path).generation_config
    assert tokenizer.convert_ids_to_tokens(config.eos_token_id) == ["<|eos|>", "<|end|>"]
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.max_new_tokens is None


def test_reloaded_tokenizer_encodes_alike(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "for x in range(3):\n    print('né', x)  # 😀"

    assert reloaded(text).input_ids == tokenizer(text).input_ids
    assert reloaded.decode(reloaded(text).input_ids, skip_special_tokens=True) == text
    assert reloaded.apply_chat_template(CHAT, tokenize=False) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_a_text_begins_with_bos_and_a_chat_has_one_only(tokenizer):
    assert tokenizer("while").input_ids[0] == tokenizer.bos_token_id

    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_chat_template_marks_roles_and_ends_turns(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, *CHAT]

    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|bos|><|system|>Be brief.<|end|><|user|>What is lambda?<|end|><|assistant|>"
    )


def test_vocabulary_has_the_size_asked_for():
    assert len(build_tokenizer(documentation(), vocab_size=400)) == 400


def test_held_out_paragraphs_are_not_trained_on(held_out):
    trained_on = "\n\n".join(training_texts())
    paragraphs = [paragraph for text in held_out for paragraph in text.strip("\n").split("\n\n")]

    assert len(paragraphs) > 100
    assert not [paragraph for paragraph in paragraphs if f"\n\n{paragraph}\n\n" in trained_on]


def test_held_out_topics_are_documentation():
    assert set(held_out_texts()) < set(documentation())


def test_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")

    with pytest.raises(FileExistsError, match="exists and is not an empty directory: name another, or remove"):
        train_tiny_llm(tmp_path, steps=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0."),
        ({"seconds": 0}, "seconds must be above 0 and finite, got 0."),
        ({"seconds": float("nan")}, "seconds must be above 0 and finite, got nan."),
        ({"seconds": float("inf")}, "seconds must be above 0 and finite, got inf."),
    ],
)
def test_no_training_time_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train_tiny_llm(tmp_path / "out", **wrong)


def test_script_trains_and_prints_the_three_perplexities(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "out", "--steps", "2"], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    for row in ("untrained", "unigram baseline", "trained"):
        assert row in done.stdout
    assert "training" in done.stderr  # the progress bar
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_script_says_what_to_do_about_a_directory_in_use(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")

    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, timeout=120)

    assert done.returncode == 2
    assert "is not an empty directory: name another, or remove it first" in done.stderr

"""Scores, choices and logits of an IR are those of a plain forward pass of torch, whatever is computed together."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import CheckpointError, EngineUnavailableError
from mlflow_llm_plugins.generation.openvino.scorer import OpenVINOScorer
from mlflow_llm_plugins.generation.openvino.scoring.alternatives import most_probable
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.quantized_llm.openvino_export.export import export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe
from tests.generation.conftest import plain_logprobs, random_prompts
from tests.models import MAX_LENGTH, VOCAB_SIZE, byte_tokenizer, random_model

KINDS = ["llama", "qwen3", "mistral_sliding", "gemma3", "gpt2", "opt", "phi3", "gpt_oss"]
NESTED = [[40], [41], [41, 42], [41, 42, 43], [41, 45, 46, 47], [48, 49]]  # some begin others
LONG = 700  # tokens: three passes
TOLERANCE = 1e-4
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def open_scorer(folder, max_length=MAX_LENGTH, max_cached_tokens=1000, **precisions):
    properties = {"INFERENCE_NUM_THREADS": 1, **EXACT, **precisions}
    return OpenVINOScorer(folder, properties, max_length=max_length, max_cached_tokens=max_cached_tokens)


@pytest.fixture(scope="module")
def scorer_of(ir_folder):
    """A function: kind of model -> (the model, a scorer on its IR), cached."""
    opened = {}

    def open_kind(kind):
        if kind not in opened:
            opened[kind] = random_model(kind), open_scorer(ir_folder(kind))
        return opened[kind]

    yield open_kind
    for _, scorer in opened.values():
        scorer.close()


@torch.no_grad()
def plain_logits(model, ids, first=1):
    return model(torch.tensor([ids])).logits[0, first - 1 : -1].float().numpy()


def rows_of(prompts, choices):
    return [ChoiceRow(prompt, choices) for prompt in prompts]


def assert_chosen(model, rows, scores, tolerance=TOLERANCE):
    for row, got in zip(rows, scores, strict=True):
        expected = [sum(plain_logprobs(model, row.stem + tail)[-len(tail) :]) for tail in row.tails]
        assert got == pytest.approx(expected, abs=tolerance)


def states_and_questions(root, state, question, states=2, questions=5, seed=3):
    root, *rest = random_prompts(root, *[state] * states, *[question] * questions, seed=seed)
    return [root + state + question for state, question in itertools.product(rest[:states], rest[states:])]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_mixed_lengths_are_scored_as_by_torch(scorer_of, kind):
    model, scorer = scorer_of(kind)
    texts = random_prompts(2, 200, 17, 190, 60, 1, 33, 60, 250)
    for text, scores in zip(texts, scorer.score(texts), strict=True):
        assert scores == pytest.approx(plain_logprobs(model, text), abs=TOLERANCE)
        assert scores.top_logprobs == ()


@pytest.mark.parametrize("kind", KINDS)
def test_choices_on_states_and_questions_are_those_of_torch_cold_and_warm(scorer_of, kind):
    model, scorer = scorer_of(kind)
    rows = rows_of(states_and_questions(root=40, state=60, question=20), NESTED)
    cold = scorer.choose(rows)
    assert_chosen(model, rows, cold)
    for row, again in zip(cold, scorer.choose(rows), strict=True):
        assert again == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_torch(scorer_of, kind):
    model, scorer = scorer_of(kind)
    (text,) = random_prompts(250)
    for first in (1, 100, 249):
        logits = np.concatenate(list(scorer.logits(text, first)))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, plain_logits(model, text, first), atol=TOLERANCE)


@pytest.mark.parametrize("count", [1, 5, 128])
def test_alternatives_are_the_most_probable_tokens_with_the_numbers_of_the_scores(scorer_of, count):
    model, scorer = scorer_of("qwen3")
    texts = random_prompts(2, 60, 1, 30, seed=4)
    for text, scores in zip(texts, scorer.score(texts, count), strict=True):
        best = torch.from_numpy(plain_logits(model, text)).log_softmax(-1).topk(count, -1)
        assert scores == pytest.approx(plain_logprobs(model, text), abs=TOLERANCE)
        assert len(scores.top_logprobs) == len(text) - 1
        for own, score, place, values in zip(text[1:], scores, scores.top_logprobs, best.values, strict=True):
            assert [logprob for _, logprob in place] == pytest.approx(values.tolist(), abs=TOLERANCE)
            assert dict(place).get(own, score) == score


def test_impossible_tokens_are_no_alternatives_and_equals_come_by_their_ids():
    logprobs = np.full((2, 300), -np.inf, np.float32)
    logprobs[0, [7, 250, 9]] = [-2.0, -0.5, -2.0]
    logprobs[1] = -np.log(np.float32(300))
    some, equal = most_probable(logprobs, 5)
    assert some == ((250, -0.5), (7, -2.0), (9, -2.0))
    assert len(equal) == 5
    assert list(equal) == sorted(equal)
    assert len(most_probable(logprobs[:, :3], 128)[1]) == 3


@pytest.mark.parametrize("kind", ["llama", "mistral_sliding"])
def test_texts_longer_than_a_pass_are_right_at_every_place(scorer_of, kind):
    model, scorer = scorer_of(kind)
    texts = random_prompts(LONG, 257, 256, 513, 3, seed=5)
    for text, scores in zip(texts, scorer.score(texts), strict=True):
        assert scores == pytest.approx(plain_logprobs(model, text), abs=1e-3)
    slices = list(scorer.logits(texts[0], 100))
    assert [part.shape for part in slices] == [(256, VOCAB_SIZE), (256, VOCAB_SIZE), (LONG - 100 - 512, VOCAB_SIZE)]


@pytest.mark.parametrize("kind", ["llama", "mistral_sliding"])
def test_a_tree_whose_keys_and_values_are_too_many_at_once_is_read_in_parts(scorer_of, kind):
    model, scorer = scorer_of(kind)
    prompts = states_and_questions(root=30, state=300, question=90, states=3, questions=5, seed=6)
    rows = rows_of([*prompts, *random_prompts(*[12] * 80, seed=7), prompts[0][:200]], NESTED)
    assert sum(len(row.stem) for row in rows) > 4096
    assert_chosen(model, rows, scorer.choose(rows), tolerance=1e-3)


def test_one_row_a_call_goes_on_from_the_rubric_of_the_call_before(scorer_of):
    model, scorer = scorer_of("mistral_sliding")
    rubric, *own = random_prompts(150, 30, 90, 5, 60, seed=8)
    for row in own:
        rows = rows_of([rubric + row], NESTED)
        assert_chosen(model, rows, scorer.choose(rows))


def test_a_row_does_not_depend_on_its_company_or_the_order(scorer_of):
    _, scorer = scorer_of("llama")
    rows = rows_of(states_and_questions(root=12, state=60, question=20, seed=9), NESTED)
    together = scorer.choose(rows)
    for row, backwards, alone in zip(rows, scorer.choose(rows[::-1])[::-1], together, strict=True):
        assert backwards == pytest.approx(alone, abs=1e-5)
        assert scorer.choose([row])[0] == pytest.approx(alone, abs=1e-5)


few_ids = st.lists(st.sampled_from([40, 41, 42]), min_size=1, max_size=6)
trees = st.lists(
    st.tuples(few_ids, st.integers(0, 60), st.lists(few_ids, min_size=1, max_size=4)), min_size=1, max_size=6
)


@given(tree=trees)
@settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_trees_of_any_shape_are_right(scorer_of, tree):
    model, scorer = scorer_of("mistral_sliding")
    shared = random_prompts(60, seed=7)[0]
    rows = [ChoiceRow(shared[:length] + own, tails) for own, length, tails in tree]
    assert_chosen(model, rows, scorer.choose(rows))


def test_no_texts_and_no_rows_have_no_scores(scorer_of):
    _, scorer = scorer_of("llama")
    assert (scorer.score([]), scorer.score([[9]]), scorer.choose([])) == ([], [[]], [])
    assert list(scorer.logits([9, 10], 2)) == []


def test_logits_of_several_texts_can_be_read_in_turns_and_left_half_way(scorer_of):
    model, scorer = scorer_of("llama")
    one, other, third = random_prompts(LONG, LONG - 50, 40, seed=4)
    next(scorer.logits(third + one, 1))  # and left
    parts = []
    with ThreadPoolExecutor(1) as another_thread:
        for pair in zip(scorer.logits(one, 1), scorer.logits(other, 1), strict=True):
            (scores,) = another_thread.submit(scorer.score, [third]).result(timeout=60)
            assert scores == pytest.approx(plain_logprobs(model, third), abs=TOLERANCE)
            parts.append([part.copy() for part in pair])  # only now: nobody else has written into it
    for text, ours in zip((one, other), zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(ours), plain_logits(model, text), atol=1e-3)


def test_four_threads_get_what_one_gets(scorer_of):
    model, scorer = scorer_of("llama")
    cases = [rows_of(states_and_questions(30, 40, 20, seed=seed), NESTED) for seed in range(4)]
    texts = random_prompts(50, 90, 130, 170)

    def ask(index):
        return scorer.choose(cases[index]), scorer.score([texts[index]])[0]

    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(ask, turn % 4) for turn in range(12)]
    for turn, answer in enumerate(answers):
        chosen, scores = answer.result(timeout=60)
        assert_chosen(model, cases[turn % 4], chosen)
        assert scores == pytest.approx(plain_logprobs(model, texts[turn % 4]), abs=TOLERANCE)


def exported(model, folder, **recipe):
    export_model(model, byte_tokenizer(), folder, OpenVINORecipe(**{"weight_format": "none", **recipe}))
    return folder


@pytest.mark.parametrize(("name", "config"), [("Cohere", {"logit_scale": 0.5}), ("Granite", {"logits_scaling": 8.0})])
def test_logits_that_a_model_scales_are_read_at_the_wanted_places(tmp_path, name, config):
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    config = {**config, "num_attention_heads": 4, "num_key_value_heads": 2}
    made = getattr(transformers, f"{name}Config")(**sizes, **config, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(made).eval()
    scorer = open_scorer(exported(model, tmp_path))
    (text,) = random_prompts(60)
    np.testing.assert_allclose(np.concatenate(list(scorer.logits(text, 1))), plain_logits(model, text), atol=TOLERANCE)
    assert scorer.score([text])[0] == pytest.approx(plain_logprobs(model, text), abs=TOLERANCE)
    scorer.close()


def test_a_row_with_nan_fails_no_other_row(tmp_path):
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan
    scorer = open_scorer(exported(model, tmp_path))
    shared, own = random_prompts(50, 9)
    rows = rows_of([[*shared, 300, 9], shared + own], NESTED)
    for _ in range(2):  # nor anything through what is kept
        bad, good = scorer.choose(rows)
        assert all(value != value for value in bad)
        assert_chosen(random_model("llama"), rows[1:], [good])
    scorer.close()


@pytest.mark.parametrize("precisions", [{"KV_CACHE_PRECISION": "u8"}, {"INFERENCE_PRECISION_HINT": "bf16"}], ids=str)
def test_rounded_precisions_give_nearly_the_same(ir_folder, precisions):
    model, scorer = random_model("llama"), open_scorer(ir_folder("llama"), **precisions)
    rows = rows_of(states_and_questions(root=40, state=60, question=20), NESTED)
    for _ in range(2):
        assert_chosen(model, rows, scorer.choose(rows), tolerance=0.5)
    scorer.close()


def test_compressed_weights_score_as_in_one_pass_and_near_the_model(tmp_path):
    scorer = open_scorer(exported(random_model("llama"), tmp_path, weight_format="int8"))
    rows = rows_of(states_and_questions(root=40, state=60, question=20), NESTED)
    together = scorer.choose(rows)
    for row, scores in zip(rows, together, strict=True):
        alone = [sum(scorer.score([row.stem + tail])[0][-len(tail) :]) for tail in row.tails]
        assert scores == pytest.approx(alone, abs=0.3)
    assert_chosen(random_model("llama"), rows, together, tolerance=1)
    scorer.close()


def without_positions(model):
    """The IR of a model that counts positions itself, by its mask, as some of other exporters do."""
    from openvino import opset13 as op

    positions = model.input("position_ids").get_node()
    tokens = op.gather(op.shape_of(model.input("input_ids"), "i64"), op.constant([1]), op.constant(0))
    counted = op.subtract(op.cum_sum(model.input("attention_mask"), op.constant(1)), op.constant(np.int64(1)))
    edges = [op.constant(np.array([value], np.int64)) for value in (2**31 - 1, 1, 1)]
    last = op.slice(counted, op.negative(tokens), *edges)
    for port in positions.output(0).get_target_inputs():
        port.replace_source_output(last.output(0))
    model.remove_parameter(positions)
    return model


def test_an_ir_that_counts_positions_itself_is_right(ir_folder, tmp_path):
    import openvino

    source = openvino.Core().read_model(ir_folder("llama") / "openvino_model.xml")
    openvino.save_model(without_positions(source), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    model, scorer = random_model("llama"), open_scorer(tmp_path)
    rows = rows_of(states_and_questions(root=40, state=60, question=20), NESTED)
    for _ in range(2):
        assert_chosen(model, rows, scorer.choose(rows))
    scorer.close()


def test_the_weights_are_those_of_the_file(ir_folder, scorer_of):
    _, scorer = scorer_of("llama")
    assert scorer.weight_bytes == (ir_folder("llama") / "openvino_model.bin").stat().st_size


def test_a_closed_scorer_scores_no_more(ir_folder):
    scorer = open_scorer(ir_folder("llama"))
    (text,) = random_prompts(LONG)
    begun = scorer.logits(text, 1)
    next(begun)
    scorer.close()
    calls = [lambda: next(begun), lambda: next(scorer.logits(text, 1)), lambda: scorer.score([text])]
    for call in [*calls, lambda: scorer.choose(rows_of([text], NESTED))]:
        with pytest.raises(EngineUnavailableError, match=r"^The engine was closed\.$"):
            call()
    scorer.close()


def test_closing_stops_a_call_that_runs(ir_folder):
    scorer, begun = open_scorer(ir_folder("llama")), threading.Event()
    scorer.score([[9, 10]])  # compiled
    texts = random_prompts(*[250] * 400)

    def score():
        begun.set()
        scorer.score(texts)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(score)
        begun.wait(timeout=60)
        scorer.close()
        with pytest.raises(EngineUnavailableError, match=r"^The engine was closed\.$"):
            running.result(timeout=60)


def test_an_ir_that_cannot_be_read_is_told_at_the_first_call_and_at_each_one(ir_folder, tmp_path):
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).write_bytes((ir_folder("llama") / name).read_bytes()[:1000])
    scorer = open_scorer(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"cannot be compiled for scoring: \S"):
            scorer.score([[9, 10]])


def test_what_is_no_stateful_causal_model_is_refused_with_its_inputs(ir_folder, tmp_path):
    for end in ("xml", "bin"):  # the tokenizer's own IR in the place of the model's
        source = ir_folder("llama") / f"openvino_detokenizer.{end}"
        (tmp_path / f"openvino_model.{end}").write_bytes(source.read_bytes())
    with pytest.raises(CheckpointError, match=r"is not a stateful IR of a causal language model: it has the inputs"):
        open_scorer(tmp_path).score([[9, 10]])


PEAK_OF_LONG_TEXTS = """
import resource, sys
from pathlib import Path
from mlflow_llm_plugins.generation.openvino.scorer import OpenVINOScorer

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)

scorer = OpenVINOScorer(
    Path(sys.argv[1]), {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"},
    max_length=4096, max_cached_tokens=0,
)
scorer.score([[9, 10]])
before = peak_mb()
text = [7 + (31 * place) % 250 for place in range(1500)]
scorer.score([text])
scorer.score([text], 5)
assert sum(len(part) for part in scorer.logits(text, 1)) == 1499
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(peak_mb() - before)
"""


@pytest.mark.slow
def test_a_long_text_with_a_wide_vocabulary_needs_bounded_memory_and_no_torch(tmp_path):
    vocabulary = 150_000
    model = random_model("llama", vocab_size=vocabulary, num_hidden_layers=1)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # few tokens have the mass: the export's probe sums 150,000 small ones inexactly
    folder = exported(model, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PEAK_OF_LONG_TEXTS, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    whole_mb = 1500 * vocabulary * 4 / 2**20
    assert float(done.stdout) < 0.7 * whole_mb

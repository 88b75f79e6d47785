"""Choices as the continuation of prompts: each token computed once, and the answers those of plain forward passes."""

import itertools
import random
import threading
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts, settings_for
from tests.models import VOCAB_SIZE, byte_tokenizer, random_model

ONE_TOKEN = [[40], [41], [42], [43], [44]]
NESTED = [[40], [41], [41, 42], [41, 42, 43], [41, 45, 46, 47], [48, 49]]  # some begin others
LONG_CONTEXT = {"max_position_embeddings": 1024}


@dataclass
class Passes:
    """What went through the model, by a hook that its twin has too."""

    tokens: list[int] = field(default_factory=list)  # of each forward pass, padding included

    def attach(self, model):
        model.register_forward_pre_hook(lambda _, __, inputs: self.seen(inputs["input_ids"]), with_kwargs=True)
        return model

    def seen(self, ids):
        self.tokens.append(ids.numel())

    def of(self, call):
        self.tokens.clear()
        call()
        return sum(self.tokens)


def tree_tokens(prompts, choices):
    """Different beginnings of the prompts with all but the last token of their choices."""
    texts = [prompt + choice[:-1] for prompt in prompts for choice in choices]
    return len({tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)})


def expected_scores(model, prompt, choices):
    return [sum(plain_logprobs(model, prompt + choice)[-len(choice) :]) for choice in choices]


def assert_right(model, prompts, choices, rows, tolerance=1e-4):
    for prompt, own, row in zip(prompts, choices, rows, strict=True):
        assert row == pytest.approx(expected_scores(model, prompt, own), abs=tolerance)


def states_and_questions(root=12, state=60, question=20, states=2, questions=5, seed=3):
    lengths = [root] + [state] * states + [question] * questions
    root, *rest = random_prompts(*lengths, seed=seed)
    return [root + state + question for state, question in itertools.product(rest[:states], rest[states:])]


@pytest.fixture(scope="module")
def counted():
    """(an engine with room for long prompts, its reference model, the counted passes)."""
    passes = Passes()
    engine = open_engine(passes.attach(random_model("llama", **LONG_CONTEXT)), byte_tokenizer(), SMALL)
    yield engine, random_model("llama", **LONG_CONTEXT), passes
    engine.close()


ENGINES = ["transformers", "openvino"]
MODELS = [
    *(
        (kind, "transformers")
        for kind in ("llama", "gpt2", "opt", "mixtral", "phi3", "falcon", "gptj", "gemma2", "bloom")
    ),
    *((kind, "openvino") for kind in ("llama", "mixtral", "falcon")),
]


@pytest.mark.parametrize(("kind", "engine"), MODELS)
def test_questions_on_two_states_equal_plain_forward_passes_cold_and_warm(open_model, kind, engine):
    model, engine = open_model(kind, engine)
    prompts = states_and_questions()
    choices = [NESTED if i % 2 else ONE_TOKEN[: 1 + i // 2] for i in range(len(prompts))]
    cold = engine.choose(prompts, choices)
    assert_right(model, prompts, choices, cold)
    for row, again in zip(cold, engine.choose(prompts, choices), strict=True):
        assert again == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_small_tree_is_one_pass_under_both_kinds_of_attention(attention):
    passes = Passes()
    model = random_model("llama", attn_implementation=attention)
    engine = open_engine(passes.attach(random_model("llama", attn_implementation=attention)), byte_tokenizer(), SMALL)
    prompts = states_and_questions()
    rows = []
    passes.of(lambda: rows.extend(engine.choose(prompts, NESTED)))
    assert passes.tokens == [tree_tokens(prompts, NESTED)]
    assert_right(model, prompts, [NESTED] * 10, rows)
    engine.close()


def test_a_large_tree_is_cut_into_passes_and_is_right(counted):
    engine, model, passes = counted
    prompts = states_and_questions(root=100, state=300, question=90, states=3, questions=4)
    rows = []
    assert passes.of(lambda: rows.extend(engine.choose(prompts, NESTED))) == tree_tokens(prompts, NESTED)
    assert len(passes.tokens) > 4
    assert_right(model, prompts, [NESTED] * 12, rows)


def test_a_long_prompt_and_one_that_it_begins_with_are_right(counted):
    engine, model, _ = counted
    long = random_prompts(1000, seed=4)[0]
    prompts = [long, long[:900], long[:10], long]
    assert_right(model, prompts, [NESTED] * 4, engine.choose(prompts, NESTED))


@pytest.mark.parametrize("choices", [ONE_TOKEN, [[40], [41, 42], [41, 42, 43], [44, 45, 46, 47]]])
def test_rows_under_a_rubric_cost_their_own_tokens_and_the_rubric_only_once(counted, choices):
    engine, model, passes = counted
    generator = random.Random(len(choices))
    rubric, *rows = random_prompts(246, *(generator.randint(100, 250) for _ in range(48)), seed=len(choices))
    first, second = ([rubric + row for row in part] for part in (rows[:32], rows[32:]))
    assert passes.of(lambda: engine.choose(first, choices)) <= 1.15 * tree_tokens(first, choices)
    scores = []
    warm = passes.of(lambda: scores.extend(engine.choose(second, choices)))
    assert warm <= 1.15 * (tree_tokens(second, choices) - len(rubric))
    assert_right(model, second, [choices] * 16, scores)


def test_one_row_a_call_finds_the_rubric_of_the_call_before(counted):
    engine, model, passes = counted
    rubric, *rows = random_prompts(200, 30, 300, 80, seed=8)
    costs = []
    for row in rows:
        costs.append(passes.of(lambda row=row: engine.choose([rubric + row], ONE_TOKEN)))
        assert_right(model, [rubric + row], [ONE_TOKEN], engine.choose([rubric + row], ONE_TOKEN))
    assert costs == [230, 300, 80]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_does_not_depend_on_its_company_or_the_order(open_model, engine):
    _, engine = open_model("llama", engine)
    prompts = states_and_questions(seed=6)
    rows = engine.choose(prompts, NESTED)
    backwards = engine.choose(prompts[::-1], [NESTED[::-1]] * 10)
    for prompt, row, turned in zip(prompts, rows, backwards[::-1], strict=True):
        assert turned[::-1] == pytest.approx(row, abs=1e-5)
        assert engine.choose([prompt], NESTED)[0] == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_prompt_and_the_same_choice_twice_get_the_same_scores(open_model, engine):
    _, engine = open_model("llama", engine)
    prompt = random_prompts(20)[0]
    first, second = engine.choose([prompt, prompt], [[[40, 41], [40, 41]], [[40, 41]]])
    assert first[0] == first[1] == second[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_mass_is_the_probability_of_any_choice_and_of_the_whole_vocabulary_one(open_model, engine):
    model, engine = open_model("llama", engine)
    prompts = random_prompts(30, 20)
    every_token = [[token] for token in range(VOCAB_SIZE)]
    some, whole = engine.choose(prompts, [ONE_TOKEN, every_token])
    expected = torch.tensor(expected_scores(model, prompts[0], ONE_TOKEN)).exp().sum().item()
    assert some.mass == pytest.approx(expected, abs=1e-5)
    assert whole.mass == pytest.approx(1, abs=1e-5)


def test_text_of_one_row_with_nan_fails_no_other_row():
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan
    engine = open_engine(model, byte_tokenizer(), SMALL)
    shared, own = random_prompts(50, 9)
    prompts = [[*shared, 300, 9], shared + own]
    for _ in range(2):  # nor anything through what is kept
        bad, good = engine.choose(prompts, NESTED)
        assert all(value != value for value in bad)
        assert good == pytest.approx(expected_scores(random_model("llama"), prompts[1], NESTED), abs=1e-4)
    engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_four_threads_get_what_one_gets_while_the_engine_generates(open_model, engine):
    model, engine = open_model("llama", engine)
    cases = [(states_and_questions(seed=seed), NESTED) for seed in range(4)]
    expected = [[expected_scores(model, prompt, own) for prompt in prompts] for prompts, own in cases]
    prompt = random_prompts(9)[0]
    stream = engine.submit(GenerationRequest(prompt, max_new_tokens=200, eos_token_ids=()))
    answers = {}

    def ask(index):
        answers[index] = [engine.choose(*cases[(index + turn) % 4]) for turn in range(3)]

    threads = [threading.Thread(target=ask, args=(index,), daemon=True) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for index, turns in answers.items():
        for turn, rows in enumerate(turns):
            for row, want in zip(rows, expected[(index + turn) % 4], strict=True):
                assert row == pytest.approx(want, abs=1e-4)
    assert sorted(answers) == [0, 1, 2, 3]
    assert list(stream.result().token_ids) == plain_greedy(model, prompt, 200)


def test_bad_ids_of_a_choice_are_refused_before_anything_runs(counted):
    engine, _, passes = counted
    passes.tokens.clear()
    with pytest.raises(InvalidInputError) as error:
        engine.choose([[9, 10]], [[40], [41, 320]])
    assert str(error.value) == "Token id 320 is outside the model's vocabulary of 320: ids go from 0 to 319."
    assert passes.tokens == []


def test_a_model_that_ignores_masks_gets_each_branch_in_a_pass_of_its_own():
    def ignore_mask(_, args, inputs):
        mask = inputs.get("attention_mask")
        return args, {**inputs, "attention_mask": None if mask is not None and mask.ndim == 4 else mask}

    passes = Passes()
    model = passes.attach(random_model("llama"))
    model.register_forward_pre_hook(ignore_mask, with_kwargs=True)
    engine = open_engine(model, byte_tokenizer(), SMALL, "generate")
    prompts = states_and_questions()
    rows = []
    assert passes.of(lambda: rows.extend(engine.choose(prompts, NESTED))) == tree_tokens(prompts, NESTED)
    assert_right(random_model("llama"), prompts, [NESTED] * 10, rows)
    engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_closed_engine_scores_no_more(loadable, engine):
    engine = open_engine(loadable("llama", engine), byte_tokenizer(), settings_for(engine), engine)
    prompt = random_prompts(60)[0]
    engine.choose([prompt], ONE_TOKEN)
    engine.close()
    for call in (lambda: engine.choose([prompt], ONE_TOKEN), lambda: engine.score([prompt])):
        with pytest.raises(EngineUnavailableError, match=r"The engine was closed\."):
            call()


def test_closing_the_engine_stops_a_call_that_scores_at_its_next_pass():
    model, opened, passes = random_model("llama"), [], []

    def close_in_the_second_pass(*_):
        passes.extend(opened)  # those of the probe, before it is open, do not count
        if len(passes) == 2:
            opened[0].close()

    model.model.register_forward_pre_hook(close_in_the_second_pass)  # the twin has it too
    engine = open_engine(model, byte_tokenizer(), SMALL)
    opened.append(engine)
    with pytest.raises(EngineUnavailableError, match=r"The engine was closed\."):
        engine.score(random_prompts(*[200] * 60))
    assert len(passes) == 2


few_ids = st.lists(st.sampled_from([40, 41, 42]), min_size=1, max_size=6)
trees = st.lists(
    st.tuples(few_ids, st.integers(0, 60), st.lists(few_ids, min_size=1, max_size=4)), min_size=1, max_size=6
)


@pytest.mark.parametrize("engine", ENGINES)
@given(tree=trees)
@settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_trees_of_any_shape_equal_plain_forward_passes(open_model, engine, tree):
    model, engine = open_model("llama", engine)
    shared = random_prompts(60, seed=7)[0]
    prompts = [shared[:length] + own for own, length, _ in tree]
    choices = [own for _, _, own in tree]
    assert_right(model, prompts, choices, engine.choose(prompts, choices))

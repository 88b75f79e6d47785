"""Perplexity: every token once, weighed alike, whatever the texts are and however long."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import EngineSettings, open_engine
from mlflow_llm_plugins.metrics.likelihood.figures import mean, perplexity_with_error
from mlflow_llm_plugins.metrics.likelihood.perplexity import perplexity
from mlflow_llm_plugins.metrics.likelihood.windows import Windows
from tests.metrics.context_engine import ContextEngine, starting_tokenizer
from tests.models import BOS, EOS, FIRST_BYTE_ID, byte_tokenizer, random_model

ENGINE = ContextEngine()
STARTING = ContextEngine(starting_tokenizer())
LONG = "Ein Würfel fällt — wohin, weiß niemand. " * 6  # more than four windows of 64 tokens


def ids_of(engine, text):
    return engine.tokenizer(text).input_ids


def naive_nll(engine, ids, context_length, stride):
    """Token by token: each is read in the first of the windows that begin every `stride` tokens and has it inside."""
    nll = []
    for place in range(1, len(ids)):
        start = next(s for s in range(0, place, stride) if s < place < s + context_length)
        (logprobs,) = engine.score([ids[start : place + 1]])
        nll.append(-logprobs[-1])
    return nll


def figures(scores):
    return dict(scores.aggregate_results)


sizes = st.tuples(st.integers(2, 40), st.integers(1, 40)).filter(lambda size: size[1] <= size[0])


@given(size=sizes, tokens=st.integers(0, 200), first=st.integers(1, 5))
def test_windows_score_each_token_from_the_first_one_exactly_once_and_fit_the_context(size, tokens, first):
    context_length, stride = size
    cut = list(Windows(context_length, stride).of(tokens, first))
    assert [i for window in cut for i in range(window.first, window.end)] == list(range(first, tokens))
    assert all(window.start < window.first and window.end - window.start <= context_length for window in cut)
    later = cut[1:]
    assert all(window.first - window.start == max(1, context_length - stride) for window in later)
    assert all(a.start + min(stride, context_length - 1) == b.start for a, b in zip(cut, later, strict=False))
    assert Windows(context_length, stride).tokens_of(tokens, first) == sum(window.end - window.start for window in cut)


@given(size=sizes, text=st.text(st.characters(max_codepoint=300), min_size=2, max_size=60))
def test_a_row_equals_a_loop_over_its_tokens(size, text):
    context_length, stride = size
    assume(len(ids_of(ENGINE, text)) > 1)  # "<|bos|>" is one token
    scores = perplexity(ENGINE, context_length=context_length, stride=stride)([text])
    nll = naive_nll(ENGINE, ids_of(ENGINE, text), context_length, min(stride, context_length - 1))
    assert scores.scores == pytest.approx([math.exp(np.mean(nll))], rel=1e-12)
    assert scores.columns["tokens"] == [len(nll)]


def test_the_figures_weigh_tokens_and_not_rows():
    texts = ["ab", LONG, "Kurz."]
    scores = perplexity(ENGINE, context_length=32, stride=8)(texts)
    nll = [naive_nll(ENGINE, ids_of(ENGINE, text), 32, 8) for text in texts]
    every = np.concatenate(nll)
    byte_count = sum(len(text.encode()) - 1 for text in texts)  # without each first letter, which nothing predicts
    value = math.exp(every.mean())
    assert figures(scores) == pytest.approx(
        {
            "perplexity": value,
            "standard_error": value * math.sqrt((np.mean(every**2) - every.mean() ** 2) / (len(every) - 1)),
            "bits_per_byte": every.sum() / math.log(2) / byte_count,
            "tokens": len(every),
            "count": 3,
            "context_length": 32,
            "stride": 8,
        },
        rel=1e-9,
    )
    assert scores.scores == pytest.approx([math.exp(np.mean(row)) for row in nll])
    assert scores.columns["bits_per_byte"] == pytest.approx(
        [sum(row) / math.log(2) / (len(text.encode()) - 1) for row, text in zip(nll, texts, strict=True)]
    )
    assert abs(value - np.mean(scores.scores)) > 1


def test_the_whole_context_as_stride_loses_no_token_and_half_of_it_is_the_default():
    scored = [
        perplexity(ENGINE, context_length=32, stride=stride)([LONG]).columns["tokens"][0] for stride in (32, 31, 1)
    ]
    assert scored == [len(LONG.encode()) - 1] * 3
    half = perplexity(ENGINE, context_length=32, stride=16)([LONG])
    assert figures(perplexity(ENGINE, context_length=32)([LONG])) == figures(half)


def test_the_figures_tell_which_windows_were_used():
    for options, used in (({}, (64, 32)), ({"context_length": 32, "stride": 32}, (32, 31)), ({"stride": 7}, (64, 7))):
        found = figures(perplexity(ENGINE, **options)(["ab"]))
        assert (found["context_length"], found["stride"]) == used


def test_whole_numbers_may_be_those_of_numpy():
    metric = perplexity(ENGINE, context_length=np.int64(32), stride=np.int32(8))
    assert figures(metric([LONG])) == figures(perplexity(ENGINE, context_length=32, stride=8)([LONG]))
    json.dumps(metric.metric_metadata)


def test_a_window_is_at_most_the_context_of_the_model_and_2048_tokens():
    long_engine = ContextEngine(context=5000)
    for engine, context_length in ((ContextEngine(), 64), (long_engine, 2048)):
        perplexity(engine)(["ab" * 1500])
        assert max(len(ids) for call in engine.calls for ids in call) == context_length


def test_the_first_token_is_scored_where_the_tokenizer_begins_texts_with_a_start_token():
    texts = ["ab", "é", f"{BOS}cd", LONG]
    scores = perplexity(STARTING, context_length=32)(texts)
    assert scores.columns["tokens"] == [2, 2, 2, len(LONG.encode())]
    nll = [naive_nll(STARTING, ids_of(STARTING, text), 32, 16) for text in ("ab", "é", "cd", LONG)]
    assert scores.scores == pytest.approx([math.exp(np.mean(row)) for row in nll])
    assert scores.columns["bits_per_byte"] == pytest.approx(
        [sum(row) / math.log(2) / n for row, n in zip(nll, (2, 2, 2, len(LONG.encode())), strict=True)]
    )


@pytest.mark.parametrize("start", [(EOS,), ("<|system|>", BOS)], ids=["not the one for it", "two"])
def test_texts_begin_as_the_tokenizer_begins_them_and_no_start_token_is_scored(start):
    engine = ContextEngine(starting_tokenizer(*start))
    texts = ["ab", "é", "".join(start) + "cd", LONG, ""]
    scores = perplexity(engine, context_length=32)(texts)
    assert scores.columns["tokens"] == [2, 2, 2, len(LONG.encode()), None]
    assert engine.calls[0][:3] == [ids_of(engine, text) for text in ("ab", "é", "cd")]
    nll = [naive_nll(engine, ids_of(engine, text), 32, 16)[len(start) - 1 :] for text in ("ab", "é", "cd", LONG)]
    assert scores.scores[:4] == pytest.approx([math.exp(np.mean(row)) for row in nll])
    assert scores.columns["bits_per_byte"][:4] == pytest.approx(
        [sum(row) / math.log(2) / n for row, n in zip(nll, (2, 2, 2, len(LONG.encode())), strict=True)]
    )
    least = len(start) + 1
    assert scores.justifications[4] == (
        f"the prediction has {least - 1} of the at least {least} tokens that a score needs"
    )


def test_more_start_tokens_than_a_window_has_cost_no_token():
    engine = ContextEngine(starting_tokenizer(BOS, "<|system|>", "<|user|>"))
    for context_length in (2, 3, 4):
        scores = perplexity(engine, context_length=context_length)(["ab"])
        assert scores.columns["tokens"] == [2]


@pytest.mark.parametrize(("text", "byte_count"), [("循环", 5), ("🙂 ok", 6), ("é", 1), ("éab", 3)])
def test_the_bytes_of_a_character_that_the_first_token_begins_count_in_bits_per_byte(text, byte_count):
    scores = perplexity(ENGINE)([text])
    bits = sum(naive_nll(ENGINE, ids_of(ENGINE, text), 64, 32)) / math.log(2) / byte_count
    assert scores.columns["bits_per_byte"] == pytest.approx([bits])
    assert figures(scores)["bits_per_byte"] == pytest.approx(bits)


def test_rows_without_a_score_have_a_reason_and_leave_the_others_alone():
    rows = ["ab", None, math.nan, 7, "", "x", "bad \ud800", ["ab"], pd.NA, "cd"]
    scores = perplexity(ENGINE)(rows)
    assert [row for row, score in enumerate(scores.scores) if not math.isnan(score)] == [0, 9]
    assert scores.justifications == [
        None,
        "the prediction is missing",
        "the prediction is missing",
        "the prediction is of type int, not text",
        "the prediction has 0 of the at least 2 tokens that a score needs",
        "the prediction has 1 of the at least 2 tokens that a score needs",
        "the prediction cannot be tokenised (TypeError)",
        "the prediction is of type list, not text",
        "the prediction is missing",
        None,
    ]
    assert scores.columns["tokens"] == [1, *[None] * 8, 1]
    alone = perplexity(ENGINE)(["ab", "cd"])
    assert figures(scores) == figures(alone)
    assert figures(perplexity(ENGINE)([None])) == {"count": 0}
    assert figures(perplexity(ENGINE)([])) == {"count": 0}


def test_a_row_that_the_model_refuses_leaves_the_others_alone():
    narrow = ContextEngine(vocabulary=FIRST_BYTE_ID + 100)
    scores = perplexity(narrow)(["ab", "ab€", "cd"])
    assert [math.isnan(score) for score in scores.scores] == [False, True, False]
    unknown = max(ids_of(narrow, "€"))
    assert scores.justifications == [
        None,
        f"the model refuses it: Token id {unknown} is outside the model's vocabulary of {FIRST_BYTE_ID + 100}.",
        None,
    ]
    assert scores.scores[::2] == perplexity(narrow)(["ab", "cd"]).scores


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_log_probability_that_is_no_number_costs_its_row_alone(value):
    class Odd(ContextEngine):
        def _logprobs(self, ids):
            logprobs = super()._logprobs(ids)
            return [value, *logprobs[1:]] if len(ids) == 4 else logprobs

    scores = perplexity(Odd())(["abc", "abcd"])
    assert scores.scores == pytest.approx([*perplexity(ENGINE)(["abc"]).scores, math.nan], nan_ok=True)
    assert scores.justifications == [None, "the model gave a log-probability that is not finite"]
    assert figures(scores)["count"] == 1


def test_a_perplexity_beyond_floats_costs_its_row_alone():
    class Loud(ContextEngine):
        def after(self, ids):
            return super().after(ids) * (1e4 if len(ids) == 4 else 1)

    scores = perplexity(Loud())(["abc", "abcd", "ab"])
    assert scores.justifications == [None, "its perplexity is beyond the numbers that a float can hold", None]
    assert figures(scores) == figures(perplexity(ENGINE)(["abc", "ab"]))
    assert scores.columns["tokens"] == [2, None, 1]


def test_sums_lose_nothing_and_an_error_beyond_floats_is_left_out():
    assert mean(np.array([1e16, 1, -1e16])) == 1 / 3
    value, error = perplexity_with_error(np.array([508.0, 908.0]))
    assert value == pytest.approx(math.exp(708))
    assert math.isnan(error)


def test_few_tokens_have_no_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    perplexity(ENGINE)([LONG])
    assert capsys.readouterr().err == ""


def test_many_rows_take_few_calls_and_a_call_is_bounded():
    engine = ContextEngine()
    perplexity(engine)(["one of many"] * 500)
    assert len(engine.calls) == 1
    perplexity(engine, stride=1)(["a long text " * 40] * 2)
    sizes = [sum(len(ids) for ids in call) for call in engine.calls[1:]]
    assert len(sizes) > 2
    assert all(size <= 16_384 for size in sizes)


def test_the_targets_are_scored_where_there_are_any_and_any_column_on_demand():
    columns = {"predictions": pd.Series(["ab", "cd"]), "targets": np.array(["ef", "gh"], dtype=object)}
    columns["inputs"] = ["ij", "kl"]
    alone = {name: perplexity(ENGINE)(values).scores for name, values in columns.items()}
    assert perplexity(ENGINE)(**columns).scores == alone["targets"]
    assert perplexity(ENGINE)(columns["predictions"]).scores == alone["predictions"]
    for name in columns:
        assert perplexity(ENGINE, texts=name)(**columns).scores == alone[name]


def test_the_evaluated_model_is_measured_where_no_other_was_given():
    other = ContextEngine(seed=5)
    assert perplexity()(["abc"], engine=other).scores == perplexity(other)(["abc"]).scores
    assert perplexity(ENGINE)(["abc"], engine=other).scores == perplexity(ENGINE)(["abc"]).scores


def test_a_model_that_can_never_be_asked_is_refused_before_the_rows_are_there():
    for call, message in (
        (lambda: perplexity().prepare(None), "perplexity has no model to ask."),
        (lambda: perplexity().prepare(object()), "perplexity needs a model whose probabilities can be read"),
        (
            lambda: perplexity(context_length=65).prepare(ENGINE),
            "perplexity(context_length=65) is longer than the model's context of 64. Give at most 64, or None.",
        ),
        (
            lambda: perplexity().prepare(ContextEngine(context=1)),
            "perplexity needs a model with a context of at least 2 tokens, got 1.",
        ),
    ):
        with pytest.raises(InvalidInputError) as error:
            call()
        assert str(error.value).startswith(message)
    perplexity().prepare(ENGINE)


@pytest.mark.parametrize(
    "name", ["standard_error", "bits_per_byte", "tokens", "context_length", "stride", "count", "mean", "variance"]
)
def test_a_name_that_another_figure_has_is_refused(name):
    with pytest.raises(
        InvalidInputError, match=f"^A metric cannot be called '{name}', which is the name of one of its"
    ):
        perplexity(ENGINE, name=name)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            lambda: perplexity()(["ab"]),
            "perplexity has no model to ask. Give perplexity(model=...) one of the flavor quantized_llm, or evaluate "
            "such a model with evaluators='llm'.",
        ),
        (
            lambda: perplexity(3)(["ab"]),
            "perplexity(model=...) needs a model whose probabilities can be read: one of the flavor quantized_llm, by "
            "its URI or loaded in this process, got int.",
        ),
        (
            lambda: perplexity(ENGINE, texts="target"),
            "perplexity(texts=...) must be one of 'predictions', 'targets', 'inputs' or None, got 'target'. Did you "
            "mean 'targets'?",
        ),
        (
            lambda: perplexity(ENGINE, texts="inputs")(["ab"]),
            "Metric 'perplexity': missing a required argument: 'inputs'. It takes: predictions=None, targets=None, *, "
            "inputs, engine=None.",
        ),
        (
            lambda: perplexity(ENGINE)(inputs=["ab"]),
            "perplexity(texts=None) needs the column 'predictions', which was not given.",
        ),
        (
            lambda: perplexity(ENGINE, context_length=65)(["ab"]),
            "perplexity(context_length=65) is longer than the model's context of 64. Give at most 64, or None.",
        ),
        (
            lambda: perplexity(ENGINE, stride=65)(["ab"]),
            "perplexity(stride=65) is longer than a window of 64 tokens, so it would leave tokens out. Give at most "
            "64.",
        ),
        (
            lambda: perplexity(context_length=8, stride=9),
            "perplexity(stride=9) is longer than a window of 8 tokens, so it would leave tokens out. Give at most 8.",
        ),
        (
            lambda: perplexity(context_length=1),
            "perplexity(context_length=...) must be a whole number from 2, got 1.",
        ),
        (lambda: perplexity(stride=0), "perplexity(stride=...) must be a whole number from 1, got 0."),
        (lambda: perplexity(stride=2.5), "perplexity(stride=...) must be a whole number from 1, got 2.5."),
        (lambda: perplexity(stride=True), "perplexity(stride=...) must be a whole number from 1, got True."),
        (
            lambda: perplexity(ContextEngine(context=1))(["ab"]),
            "perplexity needs a model with a context of at least 2 tokens, got 1.",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_with_what_to_do(score, message):
    with pytest.raises(InvalidInputError) as error:
        score()
    assert str(error.value) == message


def test_the_metric_says_how_it_was_computed():
    metric = perplexity("models:/chat/1", context_length=512, name="perplexity_chat")
    assert (metric.name, metric.main, metric.greater_is_better) == ("perplexity_chat", "perplexity_chat", False)
    assert json.loads(json.dumps(metric.metric_metadata)) == {
        "context_length": 512,
        "stride": "half the context_length",
        "texts": "targets, or predictions where there are none",
        "start_token": "at the start of each text, where the tokenizer adds one; later windows begin with text",
        "model": "models:/chat/1",
    }
    assert "perplexity_chat" in figures(perplexity(ENGINE, name="perplexity_chat")(["ab"]))


@example([BOS, BOS + BOS, f"a{EOS}"])  # special tokens that were written out
@given(st.lists(st.none() | st.text(max_size=30), max_size=6))
def test_any_text_has_a_score_or_a_reason(rows):
    for engine in (ENGINE, STARTING):
        scores = perplexity(engine)(rows)
        reasons = scores.justifications or [None] * len(rows)
        for score, reason in zip(scores.scores, reasons, strict=True):
            assert (reason is None) == math.isfinite(score)


def test_a_text_of_100_000_letters_has_a_score(caplog):
    scores = perplexity(ENGINE)(["abcdefghij" * 10_000])
    assert scores.columns["tokens"] == [99_999]
    assert not [record for record in caplog.records if "longer than" in record.getMessage()]


@pytest.fixture(scope="module")
def real():
    """(a model, an engine on a copy of it)"""
    model = random_model("llama")
    engine = open_engine(copy.deepcopy(model), byte_tokenizer(), EngineSettings(), "generate")
    yield model, engine
    engine.close()


@torch.no_grad()
def hugging_face_nll(model, ids, max_length, stride):
    """The loop of "Perplexity of fixed-length models": labels that were scored before are -100."""
    ids, total, counted, previous = torch.tensor([ids]), 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        window, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : previous - begin] = -100
        tokens = int((labels[:, 1:] != -100).sum())
        total, counted = total + model(window, labels=labels).loss.item() * tokens, counted + tokens
        previous = end
        if end == ids.shape[1]:
            return total, counted


@pytest.mark.parametrize(("max_length", "stride"), [(256, 128), (64, 24), (100, 99)])
def test_a_real_model_has_the_perplexity_of_the_loop_in_transformers_documentation(real, max_length, stride):
    model, engine = real
    scores = perplexity(engine, context_length=max_length, stride=stride)([LONG * 3])
    total, tokens = hugging_face_nll(model, ids_of(engine, LONG * 3), max_length, stride)
    assert figures(scores)["tokens"] == tokens
    assert figures(scores)["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


@torch.no_grad()
def test_a_real_model_has_the_perplexity_of_a_float64_reduction_of_its_logits(real):
    model, engine = real
    texts = ["A loop repeats.", "循环会重复执行。", LONG[:250].encode()[:250].decode(errors="ignore")]
    nll = []
    for text in texts:
        ids = torch.tensor(ids_of(engine, text))
        logprobs = model(ids[None]).logits[0].double().log_softmax(-1)
        nll.append(-logprobs[:-1].gather(1, ids[1:, None])[:, 0])
    scores = perplexity(engine)(texts)
    assert scores.scores == pytest.approx([row.mean().exp().item() for row in nll], rel=1e-5)
    assert figures(scores)["perplexity"] == pytest.approx(torch.cat(nll).mean().exp().item(), rel=1e-5)

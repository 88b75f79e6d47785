"""Rows that functions and models of other flavors answer, each in a call of its own."""

from __future__ import annotations

import contextvars
import gc
import random
import threading

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models.evaluation.base import _get_model_from_function
from mlflow.models.evaluation.default_evaluator import _extract_output_and_other_columns

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions import PredictOptions, source_of

FRAME = pd.DataFrame({"question": [f"row {i}" for i in range(12)], "number": range(12)})


def source(function, frame=FRAME, **options):
    return source_of(_get_model_from_function(function), frame, PredictOptions(**options))


def outputs(predictions):
    return [prediction.output for prediction in predictions]


class Gate:
    """A function whose calls wait until so many run at the same time; counts them."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.lock = threading.Lock()
        self.running = self.most = 0

    def __call__(self, rows):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.barrier.wait(timeout=20)
        with self.lock:
            self.running -= 1
        self.barrier.wait(timeout=20)  # nobody is counted twice before all have left
        return [rows["question"].iloc[0].upper()]


def test_one_row_that_raises_has_its_reason_and_all_others_their_answers():
    bad = set(random.Random(5).sample(range(12), 3))

    def answer(rows):
        if rows["number"].iloc[0] in bad:
            raise KeyError(f"no idea about {rows['question'].iloc[0]}")
        return rows["question"].str.upper()

    found = source(answer).predict_all()
    for i, prediction in enumerate(found):
        if i in bad:
            assert (prediction.output, prediction.error) == (None, "the model raised KeyError")
        else:
            assert (prediction.output, prediction.error) == (f"ROW {i}", None)
            assert prediction.latency >= 0


def test_an_exception_s_code_is_part_of_the_reason_and_its_words_are_not():
    def answer(rows):
        raise mlflow.MlflowException.invalid_parameter_value(f"bad: {rows}")

    assert {row.error for row in source(answer).predict_all()} == {
        "the model raised MlflowException (INVALID_PARAMETER_VALUE)"
    }


def test_as_many_rows_are_asked_together_as_there_are_workers_and_no_more():
    gate = Gate(4)
    found = source(gate, max_workers=4).predict_all()
    assert outputs(found) == [f"ROW {i}" for i in range(12)]
    assert gate.most == 4


def test_one_worker_is_the_calling_thread():
    threads = set()

    def answer(rows):
        threads.add(threading.current_thread())
        return ["x"]

    source(answer, max_workers=1).predict_all()
    assert threads == {threading.current_thread()}


def test_workers_see_the_caller_s_context():
    setting = contextvars.ContextVar("setting")
    setting.set("ours")
    assert outputs(source(lambda rows: [setting.get("none")]).predict_all()) == ["ours"] * 12


def test_an_interrupt_ends_the_rest_without_waiting():
    begun = []

    def answer(rows):
        begun.append(rows["number"].iloc[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        source(answer, max_workers=1).predict_all()
    assert begun == [0]


def test_each_row_is_a_copy_that_a_function_may_change():
    def answer(rows):
        rows["question"] = "changed"
        return rows["question"]

    before = FRAME.copy()
    assert outputs(source(answer).predict_all()) == ["changed"] * 12
    pd.testing.assert_frame_equal(FRAME, before)


@pytest.mark.parametrize(
    "shape",
    [
        lambda texts, scores: texts[0],
        lambda texts, scores: texts,
        lambda texts, scores: tuple(texts),
        lambda texts, scores: np.array(texts),
        lambda texts, scores: np.array(texts[0]),
        lambda texts, scores: pd.Series(texts, index=[77]),
        lambda texts, scores: pd.DataFrame({"any": texts}),
        lambda texts, scores: {"any": texts},
        lambda texts, scores: {"any": texts[0]},
        lambda texts, scores: {"any": np.array(texts)},
        lambda texts, scores: [{"any": texts[0]}],
    ],
)
def test_an_answer_comes_in_many_shapes(shape):
    found = source(lambda rows: shape(list(rows["question"]), None)).predict_all()
    assert outputs(found) == list(FRAME["question"])
    assert all(prediction.others == {} for prediction in found)


@pytest.mark.parametrize(
    "shape",
    [
        lambda texts, scores: pd.DataFrame({"score": scores, "answer": texts}),
        lambda texts, scores: {"score": scores, "answer": texts},
        lambda texts, scores: [{"score": s, "answer": t} for s, t in zip(scores, texts, strict=True)],
    ],
)
def test_columns_beside_the_answer_are_kept_as_the_default_evaluator_keeps_them(shape):
    def answer(rows):
        return shape(list(rows["question"]), [n / 7 for n in rows["number"]])

    found = source(answer, predictions_column="answer").predict_all()
    expected, others, _ = _extract_output_and_other_columns(answer(FRAME), "answer")
    assert outputs(found) == list(expected)
    assert [dict(prediction.others) for prediction in found] == others.to_dict("records")


@pytest.mark.parametrize("result", [pd.DataFrame({"a": [1], "b": [2]}), {"a": [1], "b": [2]}, [{"a": 1, "b": 2}]])
@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (None, "the model gives several columns; name the one to score by predictions=...: 'a', 'b'"),
        ("c", "the model's output has no column 'c', which predictions=... names; it has: 'a', 'b'"),
    ],
)
def test_which_column_is_the_answer_must_be_told(result, column, reason):
    found = source(lambda rows: result, predictions_column=column).predict_all()
    assert {prediction.error for prediction in found} == {reason}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (["a", "b"], "the model gave 2 results for one row"),
        ([], "the model gave 0 results for one row"),
        (pd.DataFrame({"a": ["x", "y", "z"]}), "the model gave 3 results for one row"),
        ({"a": ["x", "y"]}, "the model gave 2 results for one row"),
        (None, "the model gave no answer"),
        ([None], "the model gave no answer"),
        (pd.Series([float("nan")]), "the model gave no answer"),
        ({}, "the model gives several columns; name the one to score by predictions=...: none"),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, "the answer has no text"),
    ],
)
def test_anything_but_one_answer_a_row_is_a_reason(result, reason):
    assert {prediction.error for prediction in source(lambda rows: result).predict_all()} == {reason}


def test_a_chat_completion_is_read_with_its_usage():
    answer = {
        "id": "x",
        "choices": [{"message": {"role": "assistant", "content": "hi"}}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    }
    first = source(lambda rows: answer).predict_all()[0]
    assert (first.output, first.prompt_tokens, first.completion_tokens) == ("hi", 4, 2)


def test_a_row_of_an_array_is_an_array_of_one_row():
    data = np.random.default_rng(2).random((6, 3))
    found = source(lambda rows: rows.sum(axis=1), data).predict_all()
    np.testing.assert_array_equal(outputs(found), data.sum(axis=1))


class Doubled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [text * (params or {}).get("times", 2) for text in model_input["question"]]


def test_a_logged_python_model_gets_its_parameters(tmp_path):
    signature = mlflow.models.infer_signature(FRAME[["question"]], ["x"], params={"times": 2})
    mlflow.pyfunc.save_model(tmp_path / "m", python_model=Doubled(), signature=signature, pip_requirements=[])
    loaded = mlflow.pyfunc.load_model(tmp_path / "m")
    frame = FRAME[["question"]]
    assert outputs(source_of(loaded, frame).predict_all()) == [text * 2 for text in frame["question"]]
    thrice = source_of(loaded, frame, PredictOptions(params={"times": 3}))
    assert outputs(thrice.predict_all()) == [text * 3 for text in frame["question"]]


class TestUnloaded:
    def test_sampled_rows_are_asked_one_after_the_other_after_another_row(self):
        asked, gate = [], threading.Lock()

        def answer(rows):
            assert gate.acquire(blocking=False)
            asked.append(int(rows["number"].iloc[0]))
            gate.release()
            return [rows["question"].iloc[0]]

        found = source(answer).predict_unloaded(5, seed=3)
        sampled = [i for i, prediction in enumerate(found) if prediction is not None]
        assert asked[1:] == sampled
        assert len(sampled) == 5
        assert asked[0] not in sampled
        assert [found[i].output for i in sampled] == [f"row {i}" for i in sampled]

    def test_a_row_that_fails_does_not_count_as_warmed_up(self):
        asked = []

        def answer(rows):
            asked.append(int(rows["number"].iloc[0]))
            if len(asked) == 1:
                raise ValueError
            return ["x"]

        found = source(answer).predict_unloaded(4)
        assert len(asked) == 2 + 4
        assert sum(prediction is not None for prediction in found) == 4

    def test_other_seeds_sample_other_rows_and_the_same_seed_the_same(self):
        def rows_of(seed):
            found = source(lambda rows: ["x"]).predict_unloaded(4, seed)
            return tuple(i for i, prediction in enumerate(found) if prediction is not None)

        assert rows_of(1) == rows_of(1)
        assert len({rows_of(seed) for seed in range(10)}) > 5

    def test_a_sample_larger_than_the_data_is_the_data(self):
        found = source(lambda rows: ["x"]).predict_unloaded(100)
        assert outputs(found) == ["x"] * 12


class TestStatic:
    @pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda cells: pd.Series(cells, index=[9, 8, 7])])
    def test_finished_predictions_are_taken_in_their_order(self, kind):
        asked = source_of(None, FRAME.head(3), predictions=kind(["c", "a", "b"]))
        assert outputs(asked.predict_all()) == ["c", "a", "b"]
        assert asked.predict_unloaded(2) == [None] * 3
        assert (asked.can_stream, asked.describe()) == (False, {"source": "static"})

    def test_a_missing_one_has_its_reason(self):
        found = source_of(None, FRAME.head(3), predictions=["a", None, float("nan")]).predict_all()
        assert [prediction.error for prediction in found] == [None, *["the prediction is missing"] * 2]

    def test_another_number_of_them_is_refused(self):
        with pytest.raises(InvalidInputError, match="There are 2 predictions for 3 rows"):
            source_of(None, FRAME.head(3), predictions=["a", "b"])

    def test_nothing_to_evaluate_is_refused(self):
        with pytest.raises(InvalidInputError, match="There is nothing to evaluate"):
            source_of(None, FRAME)
        with pytest.raises(InvalidInputError, match="There are no rows to evaluate"):
            source_of(_get_model_from_function(lambda rows: rows), FRAME.head(0))
        with pytest.raises(InvalidInputError, match=r"The model cannot be asked: int has no predict\(\)"):
            source_of(7, FRAME)


async def _answers_later(rows):
    return list(rows["question"])


async def _streams_later(rows):
    yield rows["question"].iloc[0]


@pytest.mark.parametrize(("answer", "kind"), [(_answers_later, "coroutine"), (_streams_later, "async_generator")])
@pytest.mark.parametrize("shape", [lambda given: given, lambda given: [given], lambda given: {"any": given}])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("error:coroutine:RuntimeWarning")
def test_what_has_to_be_awaited_is_no_answer(answer, kind, shape):
    found = source(lambda rows: shape(answer(rows))).predict_all()
    gc.collect()  # a coroutine that nobody closed would complain now
    assert {row.error for row in found} == {
        f"the model gave a {kind}, not its answer; have the function wait for it, for example by asyncio.run(...)"
    }

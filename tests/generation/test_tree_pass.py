"""Trees in passes of any size, with and without masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.generation.scoring.dynamic_caches import keep_prefixes
from mlflow_llm_plugins.generation.scoring.tree_pass import TreePass
from tests.generation.conftest import plain_logprobs
from tests.models import random_model

MODEL = random_model("llama")
few_ids = st.lists(st.sampled_from([40, 41, 42]), min_size=1, max_size=12)
rows_of_any_shape = st.lists(
    st.builds(ChoiceRow, few_ids, st.lists(few_ids, min_size=1, max_size=4)), min_size=1, max_size=6
)


@pytest.mark.parametrize("can_mask", [True, False])
@given(rows=rows_of_any_shape, pass_tokens=st.integers(1, 20))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_passes_of_any_size_compute_each_token_once_and_are_right(can_mask, rows, pass_tokens):
    shapes = []
    hook = MODEL.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        got = TreePass(MODEL, keep_prefixes(0), can_mask=can_mask, pass_tokens=pass_tokens).choose(rows)
    hook.remove()
    texts = [(*row.stem, *tail[:-1]) for row in rows for tail in row.tails]
    assert sum(tokens for _, tokens in shapes) == len(
        {text[:end] for text in texts for end in range(1, len(text) + 1)}
    )
    assert all(batch == 1 and tokens <= pass_tokens for batch, tokens in shapes)  # one copy of the prefix at a time
    for row, scores in zip(rows, got, strict=True):
        expected = [sum(plain_logprobs(MODEL, row.stem + tail)[-len(tail) :]) for tail in row.tails]
        assert scores == pytest.approx(expected, abs=1e-4)

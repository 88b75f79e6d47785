"""In which passes a tree of texts is read: every token that is read has its own text before it, and nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.generation.openvino.scoring.steps import steps
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow, ChoiceTree
from tests.generation.conftest import random_prompts

few_ids = st.lists(st.sampled_from([40, 41, 42]), min_size=1, max_size=40)
rows_of_any_shape = st.lists(
    st.builds(ChoiceRow, few_ids, st.lists(few_ids, min_size=1, max_size=4)), min_size=1, max_size=8
)


class Reader:
    """What a model would have read after some steps."""

    def __init__(self, tree, begun=()):
        self.tree = tree
        self.rows = [list(begun)]
        self.read = {}  # (choice, position) -> the text before the target
        self.passes = []  # (rows, tokens)

    def follow(self, all_steps):
        for step in all_steps:
            parents = range(len(self.rows)) if step.parents is None else step.parents
            self.rows = [self.rows[parent] + ids for parent, ids in zip(parents, step.ids, strict=True)]
            self.passes.append((len(step.ids), len(step.ids[0])))
            for wanted in step.wanted:
                key = (wanted.want.choice, wanted.want.position)
                assert key not in self.read
                end = len(self.rows[wanted.row]) - len(step.ids[0]) + wanted.column + 1
                self.read[key] = (*self.rows[wanted.row][:end], wanted.want.target)
        return self

    @property
    def tokens(self):
        return sum(rows * tokens for rows, tokens in self.passes)


def expected_reads(rows):
    numbered = enumerate((row.stem, tail) for row in rows for tail in row.tails)
    return {
        (choice, len(stem) - 1 + i): (*stem, *tail[: i + 1])
        for choice, (stem, tail) in numbered
        for i in range(len(tail))
    }


def tree_of(*prompts, tails=((5,),)):
    return ChoiceTree([ChoiceRow(list(prompt), [list(tail) for tail in tails]) for prompt in prompts])


def read_all(tree, max_tokens=256):
    return Reader(tree).follow(steps(tree, tree.whole, 0, max_tokens))


@given(rows=rows_of_any_shape, max_tokens=st.integers(1, 100))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_each_wanted_token_is_read_once_behind_exactly_its_text(rows, max_tokens):
    tree = ChoiceTree(rows)
    reader = read_all(tree, max_tokens)
    assert reader.read == expected_reads(rows)
    assert reader.tokens >= tree.size(tree.whole, 0)
    assert all(tokens == 1 or rows * tokens <= max_tokens for rows, tokens in reader.passes)


@given(rows=rows_of_any_shape)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_beginning_that_was_read_is_not_read_again(rows):
    tree = ChoiceTree(rows)
    end = tree.common(tree.whole)
    reader = Reader(tree).follow(steps(tree, tree.whole, 0, 256, end))
    assert reader.tokens == end
    reader.follow(steps(tree, tree.whole, end, 256))
    assert reader.read == expected_reads(rows)


def test_rows_under_a_rubric_cost_their_own_tokens_and_the_rubric_once():
    rubric, *own = random_prompts(180, *[20] * 32)
    reader = read_all(tree_of(*(rubric + row for row in own), tails=[[1], [2], [3]]))
    assert reader.tokens == 180 + 32 * 20
    assert reader.passes[0] == (1, 180)


def test_rows_of_unequal_length_are_not_filled_up_where_that_costs_more_than_a_cut():
    short, long = [20] * 16, [400]
    reader = read_all(tree_of(*random_prompts(*short, *long)))
    assert reader.tokens == 16 * 20 + 400


def test_rows_of_nearly_equal_length_are_filled_up_rather_than_cut():
    lengths = [38, 39, 39, 40, 40, 40]
    reader = read_all(tree_of(*random_prompts(*lengths)), max_tokens=512)
    assert reader.passes == [(6, 40)]


def test_short_beginnings_are_read_in_each_row_rather_than_in_a_pass_of_their_own():
    start, *own = random_prompts(2, 20, 20, 20)
    reader = read_all(tree_of(*(start + row for row in own)))
    assert reader.passes == [(3, 22)]


def test_tails_of_several_tokens_branch_from_rows_that_were_read_together():
    rubric, *own = random_prompts(100, *[30] * 8)
    tails = [[40, 41, 42], [50, 51, 52], [60, 61, 62]]
    tree = tree_of(*(rubric + row for row in own), tails=tails)
    reader = read_all(tree)
    assert reader.tokens == tree.size(tree.whole, 0) == 100 + 8 * 30 + 8 * 3 * 2
    assert [rows for rows, _ in reader.passes] == [1, 8, 24]

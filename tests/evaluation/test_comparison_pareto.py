from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.evaluation.comparison.pareto import pareto_front

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def test_the_front_has_what_is_fast_or_good_and_nothing_that_is_beaten():
    #         fast, bad    better     slower, no better  best      slow and worse
    trade = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.5), (4.0, 0.9), (5.0, 0.1)]
    assert pareto_front(trade, (False, True)) == [0, 1, 3]
    assert pareto_front(trade, (False, False)) == [0, 4]


def test_equal_points_are_all_in_front():
    assert sorted(pareto_front([(1, 1), (1, 1), (2, 0)], (False, True))) == [0, 1]


@given(points, st.booleans(), st.booleans())
def test_a_point_is_in_front_just_when_no_other_dominates_it(given_points, first, second):
    def at_least(a, b, greater):
        return a >= b if greater else a <= b

    def dominates(a, b):
        return a != b and at_least(a[0], b[0], first) and at_least(a[1], b[1], second)

    front = pareto_front(given_points, (first, second))
    assert len(set(front)) == len(front)
    for i, point in enumerate(given_points):
        assert (i in front) == (not any(dominates(other, point) for other in given_points))

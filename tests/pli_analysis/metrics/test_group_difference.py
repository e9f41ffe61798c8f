"""Differences between groups of runs: against scipy's own t tests, and against all permutations by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pli_analysis.metrics.comparison import group_difference

LOSSES = st.lists(st.floats(1, 9).map(lambda loss: round(loss, 3)), min_size=2, max_size=6, unique=True)
LEVELS = st.lists(st.integers(0, 9), min_size=2, max_size=4)


@given(LOSSES, LOSSES)
def test_independent_groups_have_the_interval_of_welchs_test(base, mine):
    found = group_difference.difference(np.array(base), np.array(mine))
    expected = stats.ttest_ind(mine, base, equal_var=False)
    assert found.value == pytest.approx(np.mean(mine) - np.mean(base))
    low, high = expected.confidence_interval(0.95)
    if min(len(base), len(mine)) == 2 and len(base) != len(mine):  # one degree of freedom
        half = 12.7062 * math.sqrt(np.var(base, ddof=1) / len(base) + np.var(mine, ddof=1) / len(mine))
        low, high = found.value - half, found.value + half
    assert found[1:] == pytest.approx((low, high), rel=1e-4)


@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=2, max_size=6))
def test_pairs_have_the_interval_of_the_paired_test(values):
    base, mine = np.array(values).T
    shuffled = np.random.default_rng(0).permutation(len(mine))
    pairs = [(int(position), at) for at, position in enumerate(shuffled)]
    found = group_difference.difference(base, mine[shuffled], pairs)
    if np.ptp(mine - base) < 1e-6:
        return
    assert found[1:] == pytest.approx(tuple(stats.ttest_rel(mine, base).confidence_interval(0.95)), rel=1e-6, abs=1e-9)


def test_the_pairs_alone_make_the_difference_where_a_group_has_more_runs():
    base, mine = np.array([1.0, 2.0, 9.0]), np.array([1.5, 2.6])
    found = group_difference.difference(base, mine, [(0, 0), (1, 1)])
    assert found.value == pytest.approx(0.55) and found.high - 0.55 == pytest.approx(12.7062 * 0.05, rel=1e-4)


def test_there_is_no_interval_without_two_runs_a_side_or_where_runs_are_copies():
    one, two, copies = np.array([1.0]), np.array([2.0, 2.2]), np.array([1.0, 1.0])
    for base, mine in ((one, one), (one, two), (two, one), (copies, copies)):
        found = group_difference.difference(base, mine)
        assert found.value == pytest.approx(mine.mean() - base.mean())
        assert np.isnan(found[1:]).all()
    assert np.isnan(group_difference.mean(one)[1:]).all() and np.isnan(group_difference.exact_test(one, two)).all()
    assert np.isnan(group_difference.difference(two, np.array([1.0, np.nan]))).all()


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(0.1, 10), st.integers(2, 6))
def test_rounding_of_copies_is_no_variance(one, other, count):
    """The mean of three equal numbers is seldom equal to them in float64."""
    base, mine, offsets = np.full(count, one), np.full(count, other), np.arange(count)
    pairs = [(position, position) for position in range(count)]
    for found in (
        group_difference.difference(base, mine),
        group_difference.difference(base + offsets, mine + offsets, pairs),
    ):
        assert found.value == pytest.approx(other - one, abs=1e-12) and np.isnan(found[1:]).all()


@settings(max_examples=40, deadline=None)
@given(LEVELS, LEVELS)
def test_the_exact_test_of_groups_is_all_ways_to_share_them_out(one, other):
    p, least = group_difference.exact_test(np.array(one, dtype=float), np.array(other, dtype=float))
    both, found = one + other, np.mean(one) - np.mean(other)
    ways = [
        np.mean([both[i] for i in mine]) - np.mean([both[i] for i in range(len(both)) if i not in mine])
        for mine in itertools.combinations(range(len(both)), len(one))
    ]
    beyond = min(np.mean(np.array(ways) >= found - 1e-9), np.mean(np.array(ways) <= found + 1e-9))
    assert p == pytest.approx(min(2 * beyond, 1.0))
    assert p >= least - 1e-9 and least == pytest.approx(2 / len(ways))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=6))
def test_the_exact_test_of_pairs_is_all_signs(differences):
    base = np.arange(len(differences), dtype=float)
    p, least = group_difference.exact_test(
        base, base + differences, [(position, position) for position in range(len(differences))]
    )
    sums = [np.dot(signs, differences) for signs in itertools.product([-1, 1], repeat=len(differences))]
    beyond = min(np.mean([s >= sum(differences) for s in sums]), np.mean([s <= sum(differences) for s in sums]))
    assert p == pytest.approx(min(2 * beyond, 1.0)) and least == 2 / len(sums)


def test_an_exact_test_of_very_many_ways_draws_some():
    base, mine = np.arange(12.0), np.arange(12.0) + 100
    assert group_difference.exact_test(base, mine) == pytest.approx((2 / (group_difference.DRAWS + 1),) * 2)

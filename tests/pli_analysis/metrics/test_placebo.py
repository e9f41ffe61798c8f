"""Placebo steps, and the p-values that they give."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pli_analysis.metrics.disturbance import placebo


def test_placebo_steps_have_no_event_near():
    assert placebo.without_events(range(0, 101, 10), [50], reach=20, end=100) == [20, 30, 70, 80]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_quiet_steps_equal_a_slow_reference(data):
    steps = data.draw(st.lists(st.integers(0, 60), unique=True))
    events, reach = data.draw(st.lists(st.integers(0, 60))), data.draw(st.integers(1, 20))
    slow = [
        s for s in steps if s - reach >= 0 and s + reach <= 60
        and all(not s - reach < e < s + reach for e in events)
    ]  # fmt: skip
    assert placebo.without_events(steps, events, reach, 60) == slow


@given(st.integers(1, 60), st.integers(1, 12), st.sets(st.integers(0, 150)), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_placebos_are_near_in_log_step_and_do_not_overlap(step, reach, candidates, most):
    found = placebo.around(step, reach, candidates, most)
    assert set(found) <= candidates and len(found) <= most
    assert all(step / 2 <= at <= step * 2 and abs(at - step) >= reach for at in found)
    assert all(abs(a - b) >= reach / 2 for a, b in itertools.combinations(found, 2))
    near = [at for at in candidates if step / 2 <= at <= step * 2 and abs(at - step) >= reach]
    if len(found) < most:  # none could be added
        assert all(min(abs(at - taken) for taken in found) < reach / 2 for at in near if at not in found)


def test_min_p_is_what_so_many_placebo_steps_can_give():
    assert placebo.min_p(12) == pytest.approx(1 / 13) == placebo.p_value(9.0, np.zeros(12))
    assert math.isnan(placebo.min_p(0))


def test_a_window_as_long_as_has_enough_placebo_steps_is_taken():
    counts = {30: 4, 20: 9, 10: 21, 5: 40}
    assert placebo.longest(counts, lambda reach: [0] * counts[reach], enough=20) == (10, [0] * 21)
    assert placebo.longest([30, 20], lambda reach: [0] * counts[reach], enough=20) == (20, [0] * 9)


def test_among_equals_p_values_are_as_frequent_as_they_say():
    chance = np.random.default_rng(0)
    ps = [placebo.p_value(*_one_of(chance.normal(size=40))) for _ in range(4000)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(ps) <= level) == pytest.approx(math.floor(level * 40) / 40, abs=0.02)
    scores = []
    for _ in range(400):
        numbers = chance.normal(size=(41, 3))
        _, score, null = placebo.scores(numbers[0], numbers[1:])
        scores.append(placebo.p_value(score, null))
    assert 0.02 <= np.mean(np.array(scores) < 0.05) <= 0.09


def _one_of(numbers):
    return float(numbers[0]), numbers[1:]

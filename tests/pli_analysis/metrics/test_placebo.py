"""Placebo steps, and the p-values that they give."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pli_analysis.metrics.disturbance import placebo
from tests.benchmarks import calibrate_disturbance


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


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_at_each_step_of_runs_that_never_grow_a_low_p_is_as_rare_as_it_says(corpus, monkeypatch, tmp_path):
    """A reduced form of the table that tests/benchmarks/calibrate_disturbance.py makes."""
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate_disturbance, "LAYERED", ())
    table = calibrate_disturbance.table(calibrate_disturbance.cases("linear-0.1-180", 16, corpus))
    able = table[table["cases"] > 0]
    assert able["step"].nunique() >= 5
    for row in able.itertuples():
        assert row.rate * row.cases <= binom.ppf(0.999, row.cases, 0.09), row
    for _, of in able.groupby("statistic"):
        assert (of["rate"] * of["cases"]).sum() <= binom.ppf(0.999, of["cases"].sum(), 0.09)


@pytest.mark.slow
def test_with_placebos_of_any_phase_a_low_p_is_common_right_after_warm_up(corpus, monkeypatch, tmp_path):
    """What the test before would find if placebo steps were taken from the whole run: it can fail."""
    monkeypatch.setenv("PLI_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate_disturbance, "LAYERED", ())
    calibrate_disturbance.follow_old_rule(monkeypatch.setattr)
    table = calibrate_disturbance.table(calibrate_disturbance.cases("linear-0.1-180", 8, corpus))
    worst = table[table["statistic"] == "spike"]
    assert (worst["rate"] * worst["cases"]).max() > binom.ppf(0.999, 8, 0.09)


def test_the_default_preset_keeps_checkpoints_at_placebo_steps():
    """Counted from its config: its growth can have a p-value below 0.05."""
    from pli_train.checkpointing.retention import Retention
    from pli_train.config import loading
    from pli_train.core import learning_rate

    tiny = loading.load("tiny")
    total, events = tiny.train.steps, [504]
    planned = Retention(**tiny.checkpoint.model_dump(), total_steps=total).planned(events)
    steps = sorted({name.step for name in planned})

    def alike(reach):
        spans = [at for at in steps if {at - reach, at + reach} <= set(steps)]
        ends = {at: (at - reach, at + reach - 1) for at in placebo.without_events(spans, events, reach, total)}
        phases = {at: {learning_rate.phase(end, total, tiny.optim) for end in ends[at]} for at in ends}
        return [at for at, names in phases.items() if names == {"stable"}]

    found = []
    for event in events:
        reaches = [k for k in range(40, 0, -1) if {event - k, event + k} <= set(steps)]
        found.append(
            len(placebo.longest(reaches, lambda k, at=event: placebo.around(at, k, alike(k), placebo.MOST), 20)[1])
        )
    assert min(found) >= placebo.ENOUGH

"""The loss after an event: spike, recovery, area and noise, against series whose values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pli_analysis.metrics.disturbance.loss_response import MEDIAN_OF_FIVE, response_at, running_median, trend


def _series(spike, start, length, noise=0.0, seed=0):
    """Losses that fall with the logarithm of the step, and stand `spike` higher for some steps."""
    steps = np.arange(1, 401)
    losses = 6 - 0.5 * np.log(steps) + np.random.default_rng(seed).normal(0, noise, 400)
    losses[(steps > start) & (steps <= start + length)] += spike
    return steps, losses


def test_a_spike_has_its_height_length_and_area():
    found = response_at(*_series(0.3, 200, 12), at=200, window=60)
    assert found.spike == pytest.approx(0.3)
    assert found.recovery == 13
    assert found.excess_area == pytest.approx(0.3 * 12)
    assert found.late_excess == pytest.approx(0, abs=1e-9)


def test_a_loss_that_never_comes_back_is_reported_as_such():
    found = response_at(*_series(0.3, 200, 200), at=200, window=60)
    assert found.recovery is None
    assert found.excess_area == pytest.approx(0.3 * 60)
    assert found.late_excess == pytest.approx(0.3)


def test_a_loss_that_goes_on_as_it_was_has_no_spike():
    found = response_at(*_series(0, 0, 0, noise=0.01), at=200, window=60)
    assert found.recovery == 0 or found.spike < 0.03
    assert found.noise == pytest.approx(0.01 * 0.54, rel=0.6)  # a median of five varies by some half


def test_one_bad_batch_is_no_spike():
    steps, losses = _series(0, 0, 0)
    losses[210] += 9
    assert response_at(steps, losses, 200, 60).spike == pytest.approx(0, abs=1e-9)


def test_a_twin_on_the_same_batches_takes_their_noise_off():
    steps, losses = _series(0.2, 200, 10, noise=0.05)
    _, theirs = _series(0, 0, 0, noise=0.05)
    found = response_at(steps, losses, 200, 60, (steps[200:], theirs[200:]))
    assert found.spike == pytest.approx(0.2) and found.excess_area == pytest.approx(2.0)
    assert np.allclose(found.excess[10:], 0)


@given(st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=30))
@settings(max_examples=80, deadline=None)
def test_the_trend_is_the_median_of_all_slopes(losses):
    steps, losses = np.arange(10, 10 + len(losses)), np.array(losses, dtype=float)
    slope, level = trend(steps, losses)
    x = np.log(steps)
    slopes = [(losses[j] - losses[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x))]
    assert slope == pytest.approx(np.median(slopes), rel=1e-6, abs=1e-6)
    assert level == pytest.approx(np.median(losses) - slope * np.median(x), rel=1e-6, abs=1e-6)
    smooth = running_median(losses)
    assert smooth.tolist() == [np.median(losses[max(i - 2, 0) : i + 3]) for i in range(len(losses))]


def test_the_noise_beside_a_twin_is_that_of_the_difference():
    """Batches that both runs find hard are none of it, and neither is what the event did for good."""
    steps, losses = _series(0, 0, 0, noise=0.5)
    own = np.random.default_rng(1).normal(0, 0.02, len(steps))
    found = response_at(steps, losses + own + 0.4, 200, 60, (steps, losses))
    assert found.noise == pytest.approx(0.02 * 0.5356, rel=0.4)
    assert found.recovery is None and found.spike > 0.35
    medians = np.median(np.random.default_rng(0).normal(size=(200_000, 5)), axis=1)
    assert medians.std() == pytest.approx(MEDIAN_OF_FIVE, rel=0.01)


def test_rounding_is_no_spike():
    steps, losses = _series(0, 0, 0, noise=0.05)
    found = response_at(steps, losses + 1e-7, 200, 60, (steps, losses))
    assert found.recovery == 0


def test_area_and_late_are_of_the_excess_itself():
    steps, losses = _series(0, 0, 0)
    losses[210], losses[255] = losses[210] + 2, losses[255] + 3
    found = response_at(steps, losses, at=200, window=60, twin=_series(0, 0, 0))
    assert found.spike == pytest.approx(0) and found.recovery == 0
    assert found.late_excess == pytest.approx(3 / 15)  # of 15 steps, one of which the running median passes over
    losses[220:] += 1
    found = response_at(steps, losses, at=200, window=60, twin=_series(0, 0, 0))
    assert found.recovery is None and found.excess_area == pytest.approx(40 + 2 + 3)


def test_too_few_losses_say_nothing():
    steps, losses = _series(0, 0, 0)
    assert response_at(steps, losses, at=5, window=60) is None
    assert response_at(steps, losses, at=398, window=60) is None

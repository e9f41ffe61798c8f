"""Growth at plateaus of the loss: when the rule says so, and that it asks the history alone."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pli_train.growth.schedules import read
from pli_train.growth.schedules.adaptive import fall, ready


def settings(**fields):
    return read({"name": "adaptive", "layers": 4, "until": None, **fields})


def curve(loss, count=40, flops=1e12):
    return [(10 * i, flops * i, loss(i)) for i in range(1, count + 1)]


def decisions(evals, setting, **more):
    return [ready(evals[:count], 0, setting, **more) for count in range(1, len(evals) + 1)]


def falling_then_flat(i):
    return 2 + 3 * min(i, 15) ** -0.1


def test_adaptive_events_wait_for_a_plateau_in_place_of_a_time():
    events = read({"name": "adaptive", "layers": 3, "heads": [8]}).events(1, 4, None, None)
    assert events == [
        {"operator": "insert", "when": "plateau", "index": 1},
        {"operator": "insert", "when": "plateau", "index": 1},
        {"operator": "heads", "when": "plateau", "to": 8},
    ]


def test_a_power_law_grows_when_most_of_a_window_lies_on_the_plateau():
    """The loss is level from evaluation 15 on.

    Of the 10 slopes in a window of five, 7 fall while two of its points lie before the plateau (13 … 17), 4 when only
    one does (14 … 18): then their median is 0.
    """
    made = decisions(curve(falling_then_flat), settings(threshold=0.01, window=5))
    assert made.index(True) + 1 == 18
    assert all(made[17:])


@pytest.mark.parametrize("loss", [lambda i: 9 - 0.1 * i, lambda i: 100 - 0.05 * i * i], ids=["straight", "steeper"])
def test_a_curve_as_steep_as_ever_never_grows(loss):
    assert not any(decisions(curve(loss), settings(threshold=0.9, window=4)))


@pytest.mark.parametrize("loss_unit", [1e-3, 0.7, 1e4])
@pytest.mark.parametrize("flops_unit", [1e-6, 3.0, 1e9])
def test_the_units_of_loss_and_flops_do_not_matter(loss_unit, flops_unit):
    noise = random.Random(3)
    evals = curve(lambda i: 2 + 3 * i**-0.5 + 0.01 * noise.random())
    scaled = [(step, flops * flops_unit, 5 + loss * loss_unit) for step, flops, loss in evals]
    made = decisions(evals, settings())
    assert decisions(scaled, settings()) == made
    assert True in made and False in made


def test_it_is_the_loss_per_flop_and_not_per_step():
    """A loss that falls ever slower per step, at steps that cost ever less, still falls as fast per FLOP."""
    spent, evals = 0.0, []
    for i in range(1, 40):
        spent += 0.9**i
        evals.append((i, spent, 10 - spent))
    assert not any(decisions(evals, settings(threshold=0.5)))


def test_growth_waits_for_its_least_steps_and_one_evaluation_more_than_the_window():
    flat = curve(lambda i: 1.0)
    assert decisions(flat, settings(window=5)).index(True) + 1 == 6
    assert decisions(flat, settings(window=5, min_steps=200)).index(True) + 1 == 20


def test_least_steps_are_counted_from_the_last_event():
    flat = curve(lambda i: 1.0)
    assert ready(flat, 200, settings(min_steps=200))
    assert not ready(flat, 210, settings(min_steps=200))


def test_the_measure_is_the_steepest_fall_and_not_the_first():
    """Level, then a fall of 1, then of 0.1 a step: a tenth of the steepest, and far above the first."""
    made = decisions(curve(lambda i: 30 - max(0, min(i, 20) - 10) - 0.1 * max(0, i - 20)), settings(window=3))
    assert made[29] and not any(made[12:20])


def test_only_losses_since_the_last_event_count():
    evals = curve(falling_then_flat)
    assert ready(evals, 0, settings())
    assert not ready(evals, evals[-1][0], settings())
    assert not ready(evals, evals[-6][0], settings(window=5))
    assert ready(evals, evals[-7][0], settings(window=5))


def test_no_growth_from_until_on():
    flat = curve(lambda i: 1.0)
    assert not any(decisions(flat, settings(until=50)))
    assert decisions(flat, settings(until=0.5), total_steps=400).count(True) == 14  # evaluations 6 … 19
    with pytest.raises(ValueError, match="total_steps"):
        ready(flat, 0, settings(until=0.5))


def test_a_loss_that_is_no_number_decides_nothing_and_one_outlier_moves_nothing():
    flat = curve(lambda i: 1.0)
    assert not ready([*flat, (410, 41e12, math.nan)], 0, settings())
    assert ready([*flat[:20], (201, 20.1e12, math.nan), *flat[20:]], 0, settings())
    steep = curve(lambda i: 9 - 0.1 * i)
    steep[-2] = (*steep[-2][:2], 50.0)
    assert not ready(steep, 0, settings(threshold=0.5))


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=9, unique=True), st.floats(0.1, 10))
def test_the_fall_of_a_straight_line_is_its_slope(locations, slope):
    locations = sorted(round(position, 3) for position in locations)
    if len(set(locations)) < 2:
        return
    assert fall([(position, 1 - slope * position) for position in locations]) == pytest.approx(slope, rel=1e-6)

"""Schedules made by rule."""

import pytest

from pli_train.core.errors import BadInput
from pli_train.growth import schedule
from pli_train.growth.config import GrowthConfig
from pli_train.growth.initial_shape import InitialShape
from pli_train.sweep.schedule_rule import ScheduleRule

RULES = {
    "0.1@1 0.3@2 0.5@3": {"depth": 4, "position": "end", "events": 3, "first": 0.1, "last": 0.5},
    "0.1@0 0.3@0 0.5@0": {"depth": 4, "position": "start", "events": 3, "first": 0.1, "last": 0.5},
    "0.2@1 0.2@1 0.2@2 0.2@2": {"depth": 5, "position": "middle", "events": 1, "first": 0.2, "last": 0.9},
    "0.1@1 0.1@2 0.5@3 0.5@4": {"depth": 5, "position": 1.0, "events": 2, "first": 0.5, "last": 0.1},
    "0.1@1 0.2@2 0.4@3": {"depth": 4, "events": 3, "first": 0.1, "last": 0.4, "spacing": "geometric"},
    "0.01@1 0.1@2": {"depth": 3, "events": 9, "first": 0.0, "last": 0.1, "spacing": "geometric"},
}


@pytest.mark.parametrize(("expected", "rule"), RULES.items())
def test_a_rule_makes_a_schedule_in_the_short_form(expected, rule):
    made = ScheduleRule.of({"start_depth": 1, **rule}).schedule()
    assert made == expected


@pytest.mark.parametrize("position", ["start", "middle", "end", 0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("events", [1, 2, 3, 7])
@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize("spacing", ["equal", "geometric"])
def test_every_schedule_is_feasible_and_ends_at_full_depth(position, events, start, spacing):
    rule = ScheduleRule(start, 6, position, events, first=0.05, last=0.8, spacing=spacing)
    shape = InitialShape(depth=start)
    planned = schedule.plan(GrowthConfig(schedule=rule.schedule()).events(shape, 1000), shape, 1000)
    assert len(planned[-1].lineage.stack) == 6
    assert len({event.step for event in planned}) == min(events, 6 - start)
    assert planned[0].step == 50


WRONG = {
    "position": ("top", "position is 'top'; it is one of start, middle, end, or from 0 to 1"),
    "spacing": ("even", "spacing is 'even'; it is one of equal, geometric"),
    "first": (1.0, "first is 1.0"),
    "events": (0, "events is 0; it is a whole number from 1"),
    "depth": (1, "depth is 1; it must be above start_depth, which is 1"),
    "dpeth": (1, "dpeth: unknown key; did you mean 'depth'?"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_rule_is_an_error(name):
    value, message = WRONG[name]
    with pytest.raises(BadInput) as wrong:
        ScheduleRule.of({"start_depth": 1, "depth": 4, name: value})
    assert f"space.schedule: {message}" in str(wrong.value)

"""Candidates for a growth event: its tables with other values of their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.run_format.study_folder import SEED
from pli_train.growth.schedule import OPERATORS, operator_of
from pli_train.sweep.schedule_rule import index_at, position_mistake

if TYPE_CHECKING:
    from pli_train.core.lineage import Lineage
    from pli_train.sweep.space import Space
    from pli_train.training.run_plan import RunPlan

PREFIX = "growth."
POSITION, OPERATOR = "position", "operator"
TIMES = ("at", "when")
KEYS = {PREFIX + POSITION} | {
    PREFIX + name for kind in OPERATORS.values() for name in kind.model_fields if name not in TIMES
}
"""Keys that a grid may vary: `growth.` and a field of an event, or `growth.position`."""

Table = dict[str, Any]
Values = Mapping[str, Any]
"""Key → value of a candidate."""


@dataclass(frozen=True)
class Moment:
    """The growth events of one step, which are compared together.

    Attributes:
        number: from 1.
        step: number of updates before them.
        first, last: indices of the first event and after the last one.
        end: step of the next moment, or of the end of training.
    """

    number: int
    step: int
    first: int
    last: int
    end: int


@dataclass(frozen=True)
class Candidate:
    """One way to grow at a moment.

    Attributes:
        number: index in the list of all candidates.
        values: key → value.
        schedule: tables of all events: those of the moment have these values.
        plan: plan of the run with this schedule.
    """

    number: int
    values: Values
    schedule: list[Table]
    plan: RunPlan

    def __str__(self) -> str:
        return described(self.values)


def described(values: Values) -> str:
    """Return the values of a candidate as text.

    >>> described({"growth.initializer": "clone", "growth.position": "end"})
    'growth.initializer = clone, growth.position = end'
    """
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def values_of(space: Space) -> list[dict[str, Any]]:
    """Return the values of each candidate. Raises BadInput unless all keys are fields of events and have values."""
    unknown = [parameter.name for parameter in space.parameters if parameter.name not in KEYS | {SEED}]
    wrong = [f"{space.name}: {name}: not a field of growth events{did_you_mean(name, KEYS)}" for name in unknown]
    if unknown:
        wrong[-1] += f" (fields: {', '.join(sorted(KEYS))})"
    if space.rule:
        wrong.append(f"{space.name}: space.schedule: the schedule is that of the base config; only events are varied")
    if wrong:
        raise BadInput(*wrong)
    points = [{key: value for key, value in point.items() if key != SEED} for point in space.grid()]
    distinct = [point for number, point in enumerate(points) if point not in points[:number]]
    positions = {point[PREFIX + POSITION]: None for point in distinct if PREFIX + POSITION in point}
    if wrong := [mistake for position in positions if (mistake := position_mistake(position))]:
        raise BadInput(*(f"{space.name}: {PREFIX}{mistake}" for mistake in wrong))
    if len(distinct) < 2:
        raise BadInput(
            f"{space.name}: has one candidate; a comparison needs at least two "
            "(for example --grid growth.initializer=random,clone)"
        )
    return distinct


def tables_of(plan: RunPlan) -> list[Table]:
    """Return a table with all fields for each event of a plan: a schedule without defaults."""
    return [planned.event.model_dump(mode="json", exclude_none=True) for planned in plan.events]


def require_events(name: str, events: Sized) -> None:
    """Raise BadInput when the schedule of a config has no events."""
    if not events:
        raise BadInput(f"{name}: growth.schedule has no events, so there is nothing to compare")


def moments_of(plan: RunPlan) -> list[Moment]:
    """Return the moments of a plan. Raises BadInput when there is none, or an event waits for a plateau."""
    require_events(plan.config.name, plan.events)
    if any(planned.step is None for planned in plan.events):
        raise BadInput(
            f"{plan.config.name}: growth.schedule: an event waits for a plateau; candidates need events with a time"
        )
    steps = [planned.step or 0 for planned in plan.events]
    ends = [*sorted(set(steps))[1:], plan.total_steps]
    found, first = [], 0
    for number, (step, group) in enumerate(groupby(steps), 1):
        last = first + len(list(group))
        found.append(Moment(number, step, first, last, ends[number - 1]))
        first = last
    return found


def grown(values: Values, schedule: Sequence[Table], moment: Moment, before: Lineage, first_index: int) -> list[Table]:
    """Return a schedule in which the events of a moment have other values.

    A value applies to the events whose operator has the field. A candidate with another operator keeps only the time.

    Args:
        values: key → value.
        schedule: tables of all events.
        moment: the moment.
        before: lineage before it.
        first_index: lowest index of an inserted layer in this model family.
    """
    fields = {key.removeprefix(PREFIX): value for key, value in values.items()}
    changed, depth = [dict(table) for table in schedule], len(before.stack)
    for table in changed[moment.first : moment.last]:
        if fields.get(OPERATOR, table[OPERATOR]) != table[OPERATOR]:
            for key in [key for key in table if key not in TIMES]:
                del table[key]
            table[OPERATOR] = fields[OPERATOR]
        kind = operator_of(table[OPERATOR])
        has = kind.model_fields if kind else {}
        table.update({key: deepcopy(value) for key, value in fields.items() if key in has})
        if table[OPERATOR] == "insert":
            if POSITION in fields:
                table["index"] = max(index_at(fields[POSITION], depth), first_index)
            depth += 1
    return changed

"""Parse a growth schedule and assign a step to each event.

The short form `0.1@1 0.2@1 0.3@2` inserts a layer at index 1 at 10 % of training, and so on; a whole number before the
`@` is a number of steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pli_train.core import plugins
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.operators.base import Operator
from pli_train.growth.operators.context import Context
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.growth.operators.swap import Swap

OPERATORS: dict[str, type[Operator]] = {
    "insert": Insert,
    "heads": AddHeads,
    "ffn": WidenFFN,
    "swap": Swap,
    "context": Context,
}
"""Name in a config → operator. Plugins add more: see `operator_of`."""

_SHORT = re.compile(r"^(?P<at>\d+|\d*\.\d+|\d+\.\d*)@(?P<index>\d+)$")


@dataclass(frozen=True)
class ScheduledEvent:
    """A growth event with its time and result.

    Attributes:
        event: the operator.
        step: number of optimizer updates before it; None when not known yet.
        fraction: its time as a fraction of training; None when not known.
        outcome: short description of the result.
        lineage: the lineage after the event, in which every event has step 0.
    """

    event: Operator
    step: int | None
    fraction: float | None
    outcome: str
    lineage: Lineage

    @property
    def stack(self) -> tuple[str, ...]:
        """Layer ids by index after the event."""
        return tuple(self.lineage.stack)


def operator_of(name: Any) -> type[Operator] | None:
    """Return the operator of this name, or None. Raises PliError if it is of a package that cannot be imported."""
    return plugins.find(name, OPERATORS, plugins.OPERATORS, Operator) if isinstance(name, str) else None


def read(
    tables: Sequence[dict[str, Any]], defaults: Callable[[type[Operator]], dict[str, Any]] = lambda operator: {}
) -> list[Operator]:
    """Read operators from the tables of a config.

    Args:
        tables: one per event; its `operator` is `insert` by default.
        defaults: returns default values of the fields of an operator.

    Raises:
        Unreadable: with all mistakes.
        PliError: if an operator is of a package that cannot be imported.
    """
    events, wrong, mistakes = [], [], []
    for number, table in enumerate(tables, 1):
        name = table.get("operator", "insert")
        operator = operator_of(name)
        if operator is None:
            known = [*OPERATORS, *plugins.found(plugins.OPERATORS, OPERATORS)]
            near = did_you_mean(str(name), known)
            wrong.append(f"growth.schedule event {number}: unknown operator '{name}'{near} ({', '.join(known)})")
            continue
        try:
            events.append(operator(**{**defaults(operator), **table}))
        except ValidationError as error:
            mistakes.append((number, operator, error))
    if wrong or mistakes:
        raise Unreadable(wrong, mistakes)
    return events


class Unreadable(Exception):
    """Invalid tables: `wrong` has messages, `mistakes` (number of the event, operator, pydantic's error)."""

    def __init__(self, wrong: list[str], mistakes: list[tuple[int, type[Operator], ValidationError]]) -> None:
        super().__init__(*wrong)
        self.wrong, self.mistakes = wrong, mistakes


def parse_short(text: str) -> list[dict[str, int | float]]:
    """Parse the short form into one table per event.

    >>> parse_short("0.1@1 500@2")
    [{'at': 0.1, 'index': 1}, {'at': 500, 'index': 2}]

    Raises:
        BadInput: with one line for each word that is not WHEN@INDEX.
    """
    words = text.split()
    matches = {word: _SHORT.match(word) for word in words}
    wrong = [
        f"growth.schedule: '{word}' is not WHEN@INDEX "
        "(0.25@1 inserts at index 1 at a quarter of training, 500@1 after 500 steps)"
        for word in words
        if not matches[word]
    ]
    if wrong:
        raise BadInput(*wrong)
    parsed = [matches[word] for word in words]
    return [{"at": float(r["at"]) if "." in r["at"] else int(r["at"]), "index": int(r["index"])} for r in parsed if r]


def plan(events: Sequence[Operator], start: InitialShape, total_steps: int | None) -> list[ScheduledEvent]:
    """Check a schedule, and compute the step and the lineage of each event without a model.

    Args:
        events: in order of time.
        start: shape of the model at step 0.
        total_steps: optimizer updates of the whole training; None when not known yet, then steps stay None for
            events that are given as fractions.

    Raises:
        BadInput: with one line for each impossible event: its number, and what is wrong.
    """
    lineage = start.lineage()
    planned: list[ScheduledEvent] = []
    wrong: list[str] = []
    latest: dict[type, float] = {}
    for number, event in enumerate(events, 1):
        where = f"growth.schedule: event {number} ({event})"
        step, fraction = when(event.at, total_steps)
        if mistake := _mistimed(event, step, total_steps, latest):
            wrong.append(f"{where}: {mistake}")
        if misfit := event.misfit(start):
            wrong.append(f"{where}: {misfit}")
        try:
            event.record(lineage, step=0)
        except BadLineage as error:
            wrong.append(f"{where}: {error}")
            continue
        planned.append(ScheduledEvent(event, step, fraction, event.outcome(lineage), deepcopy(lineage)))
    if wrong:
        raise BadInput(*wrong)
    return planned


def _mistimed(event: Operator, step: int | None, total_steps: int | None, latest: dict[type, float]) -> str | None:
    """Return what is wrong with an event's time, or None. `latest`: time of the previous event, by kind of time."""
    if event.at is None:
        return None
    # Steps and fractions can be compared only when the length of training is known.
    clock, now = (int, step or 0) if total_steps else (type(event.at), event.at)
    if isinstance(event.at, float) and not 0 <= event.at < 1:
        return "a fraction of training must be at least 0 and less than 1"
    if step is not None and (step < 0 or (total_steps is not None and step >= total_steps)):
        return f"step {step} is outside training, which has {total_steps} steps"
    if now < latest.get(clock, 0):
        return "is earlier than the event listed before it; list events in order of time"
    latest[clock] = now
    return None


def when(at: int | float | None, total_steps: int | None) -> tuple[int | None, float | None]:
    """Return an event's time as (step, fraction of training), each None when not known."""
    if at is None:
        return None, None
    if isinstance(at, int):
        return at, at / total_steps if total_steps else None
    return (round(at * total_steps) if total_steps else None), at

"""When growth happens: from a schedule as written to events in order, each at its step.

The short form is the seed's: `0.1@1 0.2@1 0.3@2` inserts at 10 % of training at index 1, and so on; a whole number
before the `@` counts steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pli_train.errors import BadInput
from pli_train.growth.insert import Insert
from pli_train.lineage import BadLineage, Lineage

_SHORT = re.compile(r"^(?P<at>\d+|\d*\.\d+|\d+\.\d*)@(?P<index>\d+)$")


@dataclass(frozen=True)
class Planned:
    """A growth event at its place.

    Attributes:
        event: what happens.
        step: after how many optimizer updates; None while the length of training is not known.
        fraction: the same as a share of training; None when only the step is known.
        layer: the id that the newborn will have.
        donor: the id of the layer it is cloned from, or None.
        stack: the stack that the event leaves.
    """

    event: Insert
    step: int | None
    fraction: float | None
    layer: str
    donor: str | None
    stack: tuple[str, ...]


def parse_short(text: str) -> list[dict[str, int | float]]:
    """Read the short form into one table an event.

    >>> parse_short("0.1@1 500@2")
    [{'at': 0.1, 'index': 1}, {'at': 500, 'index': 2}]

    Raises:
        BadInput: for a word that is not WHEN@INDEX, one mistake a word.
    """
    words = text.split()
    found = {word: _SHORT.match(word) for word in words}
    wrong = [
        f"growth.schedule: '{word}' is not WHEN@INDEX "
        "(0.25@1 inserts at index 1 at a quarter of training, 500@1 after 500 steps)"
        for word in words
        if not found[word]
    ]
    if wrong:
        raise BadInput(*wrong)
    read = [found[word] for word in words]
    return [{"at": float(r["at"]) if "." in r["at"] else int(r["at"]), "index": int(r["index"])} for r in read if r]


def plan(events: Sequence[Insert], initial_layers: int, total_steps: int | None) -> list[Planned]:
    """Rehearse a schedule on paper.

    Args:
        events: in the order they happen.
        initial_layers: depth at step 0.
        total_steps: optimizer updates of the whole training; None when not known yet, then events keep their
            fractions.

    Raises:
        BadInput: every event that cannot happen, one line each: its number, what is wrong, what the stack is then.
    """
    lineage = Lineage.begin(initial_layers, heads=0)
    planned: list[Planned] = []
    wrong: list[str] = []
    latest: dict[type, float] = {}
    for number, event in enumerate(events, 1):
        where = f"growth.schedule: event {number} ({event})"
        step, fraction = _when(event.at, total_steps)
        # Steps and fractions can only be put in one order once the length of training is known.
        clock, now = (int, step) if total_steps else (type(event.at), event.at)
        if isinstance(event.at, float) and not 0 <= event.at < 1:
            wrong.append(f"{where}: a fraction of training lies from 0 up to, not including, 1")
        elif step is not None and (step < 0 or (total_steps is not None and step >= total_steps)):
            wrong.append(f"{where}: step {step} is outside training, which has {total_steps} steps")
        elif now is not None and now < latest.get(clock, 0):
            wrong.append(f"{where}: comes before the event listed ahead of it; list events in order of time")
        else:
            latest[clock] = now or 0
        try:
            layer = event.record(lineage, step=0)
        except BadLineage as error:
            wrong.append(f"{where}: {error}")
            continue
        planned.append(Planned(event, step, fraction, layer, lineage.layers[layer].birth.donor, tuple(lineage.stack)))
    if wrong:
        raise BadInput(*wrong)
    return planned


def stack_of_depth(depth: int) -> tuple[str, ...]:
    """The stack that a run of `depth` layers begins with."""
    return tuple(Lineage.begin(depth, heads=0).stack)


def _when(at: int | float, total_steps: int | None) -> tuple[int | None, float | None]:
    if isinstance(at, int):
        return at, at / total_steps if total_steps else None
    return (round(at * total_steps) if total_steps else None), at

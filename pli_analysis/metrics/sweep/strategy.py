"""The growth strategy of a trial: what its schedule inserts, where and when."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pli_analysis.metrics.sweep.trials import Study, Trial
from pli_train.core.errors import counted
from pli_train.core.run_format.study_folder import RULE

SCHEDULE, INITIAL_LAYERS = "growth.schedule", "model.initial_layers"
_INSERTION = re.compile(r"(\d+(?:\.\d+)?)@(\d+)")
_RULES = {
    "at the bottom": lambda depth: 0,
    "in the middle": lambda depth: (depth + 1) // 2,
    "on top": lambda depth: depth,
}
"""Words → index of an inserted layer by the depth of the stack, as in the rules of `pli-train sweep`."""
_POSITIONS = {"start": "at the bottom", "middle": "in the middle", "end": "on top"}


@dataclass(frozen=True)
class Strategy:
    """Insertions of a schedule in its short form.

    Attributes:
        times: fraction of training, or step, of each insertion, in order.
        indices: index of each inserted layer.
    """

    times: Sequence[float]
    indices: Sequence[int]


def setting(study: Study, trial: Trial, key: str) -> Any:
    """Return the value of a config key of a trial; None if it is not known."""
    if key in trial.changes:
        return trial.changes[key]
    found: Any = study.base
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def parse(schedule: object) -> Strategy | None:
    """Parse a schedule such as `0.1@1 0.3@2`; None if it has another form.

    >>> parse("0.1@1 0.3@2"), parse("g-stack")
    (Strategy(times=[0.1, 0.3], indices=[1, 2]), None)
    """
    words = schedule.split() if isinstance(schedule, str) else []
    found = [_INSERTION.fullmatch(word) for word in words]
    if not words or None in found:
        return None
    pairs = [(float(match[1]), int(match[2])) for match in found if match]
    return Strategy([at for at, _ in pairs], [index for _, index in pairs])


def describe(study: Study, trial: Trial) -> str:
    """Describe what a trial's schedule does.

    For example: `inserts 2 layers in the middle in 2 events from 10 % to 60 % of training`.
    """
    schedule = setting(study, trial, SCHEDULE)
    found = parse(schedule)
    if found is None:
        if not schedule:
            return "does not grow"
        return f"grows by the schedule {schedule}" if isinstance(schedule, str) else "grows by a schedule in tables"
    where = _position(study, trial, found)
    return f"inserts {counted(len(found.indices), 'layer')} {where} {_when(found.times)}"


def _position(study: Study, trial: Trial, found: Strategy) -> str:
    """Return where layers are inserted: by the rule of the study if it has one, or else by the indices."""
    given = _rule_of(study, trial).get("position")
    if isinstance(given, str) and given in _POSITIONS:
        return _POSITIONS[given]
    if isinstance(given, int | float):
        return f"at {given:.0%} of the depth".replace("%", " %")
    depth = setting(study, trial, INITIAL_LAYERS)
    if isinstance(depth, int):
        for words, index_at in _RULES.items():
            if list(found.indices) == [index_at(depth + added) for added in range(len(found.indices))]:
                return words
    listed = ", ".join(map(str, found.indices))
    return f"at ind{'ex' if len(found.indices) == 1 else 'ices'} {listed}"


def _rule_of(study: Study, trial: Trial) -> dict[str, Any]:
    """Return the values of the schedule rule that are fixed or sampled."""
    rule = study.space.get("schedule")
    sampled = {name.removeprefix(RULE): value for name, value in trial.params.items() if name.startswith(RULE)}
    return {**(rule if isinstance(rule, Mapping) else {}), **sampled}


def _when(times: Sequence[float]) -> str:
    """Return number and times of events.

    >>> _when([0.1, 0.1, 0.6]), _when([0.3, 0.3]), _when([40])
    ('in 2 events from 10 % to 60 % of training', 'in one event at 30 % of training', 'in one event at step 40')
    """
    events = sorted(set(times))
    first, last = events[0], events[-1]
    count = "one event" if len(events) == 1 else f"{len(events)} events"
    if all(at < 1 for at in events):
        span = f"at {100 * first:.3g} %" if first == last else f"from {100 * first:.3g} % to {100 * last:.3g} %"
        return f"in {count} {span} of training"
    if all(at == int(at) for at in events):
        return f"in {count} " + (f"at step {first:.0f}" if first == last else f"from step {first:.0f} to {last:.0f}")
    return f"in {count}"

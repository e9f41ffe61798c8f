"""Generate a growth schedule from a rule: positions, times and number of insertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.growth.schedules.named import evenly

POSITIONS = ("start", "middle", "end")
SPACINGS = ("equal", "geometric")
EARLIEST = 0.01
"""Earliest fraction of training for geometric spacing, which cannot begin at 0."""


@dataclass(frozen=True)
class ScheduleRule:
    """A rule that generates the short form of a growth schedule.

    Attributes:
        start_depth: number of layers at step 0.
        depth: number of layers at the end.
        position: position of each inserted layer: bottom (`start`), `middle`, top (`end`), or a fraction of the current
            depth from 0 (bottom) to 1 (top).
        events: number of growth events; the layers are spread evenly over them. At most one event per layer.
        first, last: fraction of training at the first and the last event; swapped if `first` is larger.
        spacing: times with equal differences (`equal`) or equal ratios (`geometric`).
    """

    start_depth: int
    depth: int
    position: str | float = "end"
    events: int = 1
    first: float = 0.1
    last: float = 0.6
    spacing: str = "equal"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ScheduleRule:
        """Create a rule from named values. Raises BadInput with every invalid value."""
        wrong = [f"{name}: unknown key{did_you_mean(name, NAMES)}" for name in values if name not in NAMES]
        if not wrong:
            rule = cls(**values)
            wrong = rule._mistakes()
            if not wrong:
                return rule
        raise BadInput(*(f"space.schedule: {mistake}" for mistake in wrong))

    def schedule(self) -> str:
        """Return the schedule in its short form.

        >>> ScheduleRule(start_depth=1, depth=4, position="end", events=3, first=0.1, last=0.5).schedule()
        '0.1@1 0.3@2 0.5@3'
        """
        added = self.depth - self.start_depth
        moments = self._moments(min(self.events, added))
        # Spread the layers evenly over the moments.
        times = [moments[number * len(moments) // added] for number in range(added)]
        indices = [index_at(self.position, depth) for depth in range(self.start_depth, self.depth)]
        return " ".join(f"{at}@{index}" for at, index in zip(times, indices, strict=True))

    def _moments(self, count: int) -> list[float]:
        first, last = sorted((self.first, self.last))
        if self.spacing == "equal" or count == 1:
            return [round(at, 4) for at in evenly(first, last, count)]
        first = max(first, EARLIEST)
        return [round(first * (last / first) ** (number / (count - 1)), 4) for number in range(count)]

    def _mistakes(self) -> list[str]:
        wrong = []
        if mistake := position_mistake(self.position):
            wrong.append(mistake)
        if self.spacing not in SPACINGS:
            wrong.append(f"spacing is {self.spacing!r}; it is one of {', '.join(SPACINGS)}")
        for name in ("first", "last"):
            if not _is_share(at := getattr(self, name)) or at >= 1:
                wrong.append(f"{name} is {at!r}; it is a fraction of training, at least 0 and below 1")
        counts = {"events": 1, "start_depth": 0, "depth": 1}
        for name, least in counts.items():
            if not isinstance(count := getattr(self, name), int) or isinstance(count, bool) or count < least:
                wrong.append(f"{name} is {count!r}; it is a whole number from {least}")
        if not wrong and self.depth <= self.start_depth:
            wrong.append(f"depth is {self.depth}; it must be above start_depth, which is {self.start_depth}")
        return wrong


NAMES = tuple(field.name for field in fields(ScheduleRule))


def index_at(position: str | float, depth: int) -> int:
    """Return the index at which a layer is inserted into `depth` layers.

    >>> [index_at(position, 3) for position in ("start", "middle", "end", 0.25)]
    [0, 2, 3, 1]
    """
    if isinstance(position, str):
        return {"start": 0, "middle": (depth + 1) // 2, "end": depth}[position]
    return round(position * depth)


def position_mistake(position: object) -> str:
    """Return what is wrong with a position; empty if it is valid."""
    if position in POSITIONS or _is_share(position):
        return ""
    return f"position is {position!r}; it is one of {', '.join(POSITIONS)}, or from 0 to 1"


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

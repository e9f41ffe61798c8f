"""Insert a layer when the loss reaches a plateau.

The rate of several evaluations is −dL/dC, the decrease of the evaluation loss per FLOP, estimated as the Theil–Sen
slope (the median of the slopes of all pairs, so that a single outlier has no effect). It is computed for every `window`
consecutive evaluations since the last growth event. Growth is due when the newest rate is at most `threshold` times the
highest of them. The units of loss and FLOPs do not matter. The decision depends only on the history, so a resumed run
decides as the uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import isfinite
from statistics import median
from typing import ClassVar, Literal

from pydantic import Field

from pli_train.growth.schedules.named import Moment, NamedSchedule, When
from pli_train.growth.schedules.position import Position, indices
from pli_train.models.config import MOST


class Adaptive(NamedSchedule):
    """Insert one layer each time the loss reaches a plateau.

    Its events have `"when": "plateau"` in place of `at`. Each event, growth of heads included, waits for its own
    plateau, so that the effect of one event is measured before the next.
    """

    cites: ClassVar[str] = "Theil–Sen: Sen 1968, doi 10.1080/01621459.1968.10480934"

    name: Literal["adaptive"] = "adaptive"
    layers: int | None = Field(None, ge=1, le=MOST, description="final depth; optional if positions are listed")
    position: Position = Field("middle", description="start (bottom), end (top), middle, or the indices")
    threshold: float = Field(0.2, gt=0, lt=1, description="fraction of the highest rate below which the loss is flat")
    window: int = Field(5, ge=2, description="evaluations per slope")
    min_steps: int = Field(0, ge=0, description="minimum number of steps between growth events")
    until: When | None = Field(0.9, description="no growth from this time on (None: no limit)")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return one insertion per plateau. Raises BadInput when positions and depths disagree."""
        locations = indices(self.position, depth, self.layers)
        return [Moment({"when": "plateau"}, [{"operator": "insert", "index": index}]) for index in locations]


def ready(
    evals: Sequence[tuple[int, float, float]], since: int, settings: Adaptive, total_steps: int | None = None
) -> bool:
    """Return whether growth is due at the newest evaluation.

    Args:
        evals: (step, FLOPs spent, evaluation loss), in order of steps, with increasing FLOPs. Evaluations at or before
            `since`, and those whose loss is not finite, are ignored.
        since: step of the last growth event, 0 when there was none.
        settings: the schedule.
        total_steps: optimizer updates of the whole training, required if `settings.until` is a fraction.

    Returns:
        False during the first `min_steps` steps and `window` evaluations after the event, and from `until` on. A loss
        that has not decreased at all since the event counts as a plateau.

    Raises:
        ValueError: when `until` is a fraction and `total_steps` is None.
    """
    end_of_growth = _end(settings.until, total_steps)
    finite = [(flops, loss) for step, flops, loss in evals if step > since and isfinite(loss)]
    if len(finite) <= settings.window:
        return False
    now, _, newest = evals[-1]
    if now - since < settings.min_steps or now >= end_of_growth or not isfinite(newest):
        return False
    rates = [fall(finite[end - settings.window : end]) for end in range(settings.window, len(finite) + 1)]
    return rates[-1] <= settings.threshold * max(rates)


def fall(points: Sequence[tuple[float, float]]) -> float:
    """Return the decrease of the loss per FLOP: minus the Theil–Sen slope of (FLOPs, loss) points.

    >>> fall([(0, 4.0), (1, 3.0), (2, 9.0), (3, 1.0), (4, 0.0)])
    1.0

    Raises:
        ValueError: when no two points differ in FLOPs.
    """
    pairs = combinations(points, 2)
    slopes = [(before - after) / (later - earlier) for (earlier, before), (later, after) in pairs if later > earlier]
    if not slopes:
        raise ValueError("no two evaluations differ in FLOPs")
    return median(slopes)


def _end(until: int | float | None, total_steps: int | None) -> float:
    if until is None:
        return float("inf")
    if isinstance(until, int):
        return until
    if total_steps is None:
        raise ValueError(f"until is {until} of training, but total_steps is not given")
    return until * total_steps

"""Insert a layer when the loss reaches a plateau.

The rate of a stretch of evaluations is −dL/dC, the fall of the evaluation loss per FLOP, as the Theil–Sen slope (the
median of the slopes of all pairs: one odd evaluation does not move it). It is taken over every `window` consecutive
evaluations since the last growth event. Growth is due when the newest rate is at most `threshold` times the steepest
of them. Neither the unit of the loss nor that of the FLOPs matters, and nothing but the history does, so that a run
resumed from it decides as the first one did.
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
    """One layer each time the loss reaches a plateau.

    Its events carry `"when": "plateau"` in place of `at`. Each waits for a plateau of its own, growth of heads too:
    what one event did has then been seen before the next.
    """

    cites: ClassVar[str] = "Theil–Sen: Sen 1968, doi 10.1080/01621459.1968.10480934"

    name: Literal["adaptive"] = "adaptive"
    layers: int | None = Field(
        None, ge=1, le=MOST, description="depth at the end; may be left out beside a list of positions"
    )
    position: Position = Field("middle", description="start (bottom), end (top), middle, or each insertion's index")
    threshold: float = Field(0.2, gt=0, lt=1, description="share of the steepest fall per FLOP that counts as none")
    window: int = Field(5, ge=2, description="evaluations that a slope is taken over")
    min_steps: int = Field(0, ge=0, description="steps from one growth event to the next, at least")
    until: When | None = Field(0.9, description="no growth from here on; none given: growth up to the end")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """One insertion a plateau. Raises BadInput when positions and depths disagree."""
        locations = indices(self.position, depth, self.layers)
        return [Moment({"when": "plateau"}, [{"operator": "insert", "index": index}]) for index in locations]


def ready(
    evals: Sequence[tuple[int, float, float]], since: int, settings: Adaptive, total_steps: int | None = None
) -> bool:
    """Whether growth is due at the newest evaluation.

    Args:
        evals: (step, FLOPs spent, evaluation loss), in order of steps. Those up to and at `since`, and those whose
            loss is not finite, do not count; FLOPs grow from one to the next.
        since: the step of the last growth event, 0 when there was none.
        settings: the schedule.
        total_steps: optimizer updates of the whole training, needed where `settings.until` is a share of it.

    Returns:
        False before `min_steps` since the event, before `window`+1 evaluations since it, and from `until` on. A loss
        that has not fallen at all since the event counts as a plateau.

    Raises:
        ValueError: when `until` is a share and `total_steps` is None.
    """
    end_of_growth = _end(settings.until, total_steps)
    lived = [(flops, loss) for step, flops, loss in evals if step > since and isfinite(loss)]
    if len(lived) <= settings.window:
        return False
    now, _, newest = evals[-1]
    if now - since < settings.min_steps or now >= end_of_growth or not isfinite(newest):
        return False
    rates = [fall(lived[end - settings.window : end]) for end in range(settings.window, len(lived) + 1)]
    return rates[-1] <= settings.threshold * max(rates)


def fall(points: Sequence[tuple[float, float]]) -> float:
    """How fast the loss falls per FLOP: minus the Theil–Sen slope of (FLOPs, loss) points.

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

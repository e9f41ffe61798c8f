"""The data that `watch` shows at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import lineage as lineage_metric
from pli_train.core.anatomy.parts import Part
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pli_analysis.scalars.reading import Scalars
    from pli_train.core.lineage import Lineage

SMOOTHED = 20
"""Training steps whose mean loss is told."""
EVENTS = 5
"""Steps with growth that are told, the last ones."""
RATE_STEPS = 200
"""Steps that the time left is reckoned by: few enough to follow growth, enough to have evaluations among them."""


@dataclass(frozen=True)
class Growth:
    """What grew at a step, in a word or two, and eval loss right before and after; None where it was not logged."""

    step: int
    label: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Frame:
    """One moment of a run.

    Attributes:
        name: of the run.
        training: whether a process of this machine trains in it.
        step: optimizer updates done, as far as anything on disk tells.
        total: updates that there will be; None where that is not known.
        stack: ids from bottom to top; empty before the first checkpoint.
        born: layer id → step of its birth.
        losses: [steps logged] of training, nats per target.
        evals: [evaluations], the same of the held-out blocks.
        rate: tokens a second.
        left: seconds until the last step, at the recent rate.
        growth: the last events, oldest first.
        norms: layer id → gradient norm, as last logged.
        checkpoint: the newest whole one.
        drift: layer id → ‖θ − θ(birth)‖ ÷ ‖θ(birth)‖ at `drift_at`.
        drift_at: the checkpoint that drift is told of; an older one while the newest is read.
        notes: what could not be read just now, and the like, a line each.
    """

    name: str
    training: bool = False
    step: int = 0
    total: int | None = None
    stack: tuple[str, ...] = ()
    born: Mapping[str, int] = field(default_factory=dict)
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    evals: np.ndarray = field(default_factory=lambda: np.empty(0))
    rate: float | None = None
    left: float | None = None
    growth: tuple[Growth, ...] = ()
    norms: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    drift: Mapping[str, float] = field(default_factory=dict)
    drift_at: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every step is done, and nobody writes any more."""
        return self.total is not None and self.step >= self.total and not self.training

    @property
    def loss(self) -> float | None:
        """The mean of the last training losses."""
        return float(self.losses[-SMOOTHED:].mean()) if len(self.losses) else None


def growth(lineage: Lineage, scalars: Scalars) -> tuple[Growth, ...]:
    """The last steps with growth, and what it did to the loss on the spot."""
    steps = list(lineage_metric.by_step(lineage).items())[-EVENTS:]
    sides = (run_folder.EVAL_LOSS, run_folder.EVAL_LOSS_AFTER_EVENT)
    return tuple(Growth(step, " ".join(labels), *(scalars.at(tag, step) for tag in sides)) for step, labels in steps)


def norms(lineage: Lineage, scalars: Scalars) -> dict[str, float]:
    """The last gradient norm of each layer of the stack that has one."""
    found = {id: scalars.of(run_folder.GRAD_NORM + Part("layer", id).tag).values for id in lineage.stack}
    return {id: float(values[-1]) for id, values in found.items() if len(values)}


def last(scalars: Scalars, tag: str) -> float | None:
    """The last value of a scalar."""
    values = scalars.of(tag).values
    return float(values[-1]) if len(values) else None


def last_step(scalars: Scalars) -> int:
    """The last step that anything was logged at; 0 when nothing was."""
    return max((int(columns.steps[-1]) for columns in scalars.columns.values() if len(columns.steps)), default=0)


def seconds_left(scalars: Scalars, total: int, since: float, now: float) -> float | None:
    """Seconds until the last step, as fast as the last steps were with evaluations and checkpoints among them.

    Args:
        scalars: of the run.
        total: steps that there will be.
        since: when the process that trains began: a pause before it is no training. In seconds since 1970, as `now`.
        now: scalars lag behind training, and what has gone by since the last one is not left any more.

    Returns:
        None where fewer than two steps were logged since.
    """
    steps, walls, _ = scalars.of(run_folder.LOSS)
    late = walls[-RATE_STEPS:] >= since
    steps, walls = steps[-RATE_STEPS:][late], walls[-RATE_STEPS:][late]
    if len(steps) < 2:
        return None
    step_seconds = float(walls[-1] - walls[0]) / int(steps[-1] - steps[0])
    left = max(0.0, step_seconds * (total - int(steps[-1])) - max(0.0, now - float(walls[-1])))
    return left if math.isfinite(left) else None

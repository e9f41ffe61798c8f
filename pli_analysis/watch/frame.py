"""The state of a run that `watch` shows at one moment."""

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
"""Number of training steps in the mean loss."""
EVENTS = 5
"""Number of steps with growth shown, the last ones."""
RATE_STEPS = 200
"""Number of steps from which the time left is estimated: few, to follow growth, but enough to include evaluations."""


@dataclass(frozen=True)
class Growth:
    """Growth at a step, with the eval loss right before and after; None if it was not logged."""

    step: int
    label: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Frame:
    """The state of a run at one moment.

    Attributes:
        name: name of the run.
        training: whether a process on this machine is training the run.
        step: optimizer updates done, according to the files on disk.
        total: total number of updates; None if unknown.
        stack: layer ids from bottom to top; empty before the first checkpoint.
        born: layer id → step of its birth.
        losses: [steps logged] training losses, nats per target.
        evals: [evaluations] losses on the held-out blocks, nats per target.
        rate: tokens per second.
        left: seconds until the last step, at the recent rate.
        growth: the last growth events, oldest first.
        norms: layer id → gradient norm, as last logged.
        checkpoint: the newest complete checkpoint.
        drift: layer id → ‖θ − θ(birth)‖ ÷ ‖θ(birth)‖ at `drift_at`.
        drift_at: the checkpoint at which drift was measured; an older one while the newest is being measured.
        notes: lines on what cannot be read at the moment, and similar.
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
        """Whether all steps are done and no process is training."""
        return self.total is not None and self.step >= self.total and not self.training

    @property
    def loss(self) -> float | None:
        """Mean of the last training losses."""
        return float(self.losses[-SMOOTHED:].mean()) if len(self.losses) else None


def growth(lineage: Lineage, scalars: Scalars) -> tuple[Growth, ...]:
    """Return the last steps with growth, with eval losses right before and after."""
    steps = list(lineage_metric.by_step(lineage).items())[-EVENTS:]
    sides = (run_folder.EVAL_LOSS, run_folder.EVAL_LOSS_AFTER_EVENT)
    return tuple(Growth(step, " ".join(labels), *(scalars.at(tag, step) for tag in sides)) for step, labels in steps)


def norms(lineage: Lineage, scalars: Scalars) -> dict[str, float]:
    """Return the last gradient norm of each layer of the stack that has one."""
    logged = {id: scalars.of(run_folder.GRAD_NORM + Part("layer", id).tag).values for id in lineage.stack}
    return {id: float(values[-1]) for id, values in logged.items() if len(values)}


def last(scalars: Scalars, tag: str) -> float | None:
    """Return the last value of a scalar; None if it was not logged."""
    values = scalars.of(tag).values
    return float(values[-1]) if len(values) else None


def last_step(scalars: Scalars) -> int:
    """Return the last logged step; 0 if nothing was logged."""
    return max((int(columns.steps[-1]) for columns in scalars.columns.values() if len(columns.steps)), default=0)


def seconds_left(scalars: Scalars, total: int, since: float, now: float) -> float | None:
    """Estimate the seconds until the last step from the rate of the last steps, evaluations and checkpoints included.

    Args:
        scalars: scalars of the run.
        total: total number of steps.
        since: start of the training process, in seconds since 1970; steps before it are ignored.
        now: current time, in seconds since 1970; the time since the last logged step is subtracted.

    Returns:
        Seconds; None if fewer than two steps were logged since the start.
    """
    steps, walls, _ = scalars.of(run_folder.LOSS)
    late = walls[-RATE_STEPS:] >= since
    steps, walls = steps[-RATE_STEPS:][late], walls[-RATE_STEPS:][late]
    if len(steps) < 2:
        return None
    step_seconds = float(walls[-1] - walls[0]) / int(steps[-1] - steps[0])
    left = max(0.0, step_seconds * (total - int(steps[-1])) - max(0.0, now - float(walls[-1])))
    return left if math.isfinite(left) else None

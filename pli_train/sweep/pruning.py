"""Prune poor trials at fixed shares of the budget (rungs), outside the recovery windows of events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.pruners import BasePruner

from pli_train.core.run_format import run_folder
from pli_train.core.run_format.study_folder import PRUNING_FACTOR
from pli_train.sweep import objective

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig

RUNGS = (10, 30, 90)
"""Percent of the budget at which trials are compared: each is PRUNING_FACTOR times the one before."""


def pruner(kind: str) -> BasePruner:
    """Create a pruner. Its resource is the used share of the budget, in percent."""
    if kind == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=PRUNING_FACTOR)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=RUNGS[0], max_resource=100, reduction_factor=PRUNING_FACTOR)
    return optuna.pruners.NopPruner()


def reports(run: Path, config: RunConfig, total: float) -> list[tuple[int, float, int]]:
    """Return the loss of a run at the rungs that it has passed.

    Trials must be compared at the same share of the budget, as the loss falls all the time. The loss at a rung is
    therefore interpolated linearly between the evaluations before and after it, without those at step 0 and in recovery
    windows. If there is none before it, it is the loss of the first one after it.

    Args:
        run: run folder, also while the run is training.
        config: config of the run.
        total: planned FLOPs of the run, or its number of steps if they are unknown.

    Returns:
        (rung, eval loss, step of the first evaluation at or after the rung) of each rung passed.
    """
    flops = dict(objective.scalars(run, run_folder.FLOPS))
    windows = objective.recovery_windows(run, config)
    usable = [
        (step, loss)
        for step, loss in objective.evaluations(run)
        if step > 0 and not any(event <= step <= end for event, end in windows)
    ]
    if not usable or not flops:
        return []
    logged = sorted(flops)
    steps, losses = zip(*usable, strict=True)
    used = 100 / total * np.interp(steps, [0, *logged], [0.0, *(flops[at] for at in logged)])
    passed = [rung for rung in RUNGS if rung <= used[-1]]
    return [(rung, float(np.interp(rung, used, losses)), steps[int(np.searchsorted(used, rung))]) for rung in passed]

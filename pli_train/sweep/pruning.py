"""Prune poor trials at fixed shares of the budget, outside the recovery windows of events."""

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

FIRST, LAST = 10, 100
"""Percent of the budget at the first and the last rung."""


def pruner(kind: str) -> BasePruner:
    """Create a pruner. Its resource is the used share of the budget, in percent."""
    if kind == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST, reduction_factor=PRUNING_FACTOR)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=FIRST, max_resource=LAST, reduction_factor=PRUNING_FACTOR)
    return optuna.pruners.NopPruner()


def reports(run: Path, config: RunConfig, total: float) -> list[tuple[int, float, int]]:
    """Return the evaluations so far that a pruner may use.

    Args:
        run: run folder, also while the run is training.
        config: config of the run.
        total: planned FLOPs of the run, or its number of steps if they are unknown.

    Returns:
        (share of the budget in percent, eval loss, step) of each evaluation outside all recovery windows; the last one
        of each percent.
    """
    evaluations = objective.evaluations(run)
    flops = dict(objective.scalars(run, run_folder.FLOPS))
    if not evaluations or not flops:
        return []
    windows = objective.recovery_windows(run, config)
    steps = sorted(flops)
    found: dict[int, tuple[int, float, int]] = {}
    for step, loss in evaluations:
        if step == 0 or any(event <= step <= end for event, end in windows):
            continue
        used = float(np.interp(step, [0, *steps], [0.0, *(flops[at] for at in steps)]))
        percent = min(int(100 * used / total), LAST)
        found[percent] = (percent, loss, step)
    return sorted(found.values())

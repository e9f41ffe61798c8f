"""Eval loss over FLOPs of the best growth trial and of the tuned baseline.

If a study was confirmed, the curves are those of the confirmation runs, which were not selected by their loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.metrics.comparison.curves import Curve, loss_at
from pli_analysis.metrics.sweep.confirmation import Confirmation
from pli_analysis.metrics.sweep.trials import Study, Trial, best
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.study_folder import BASELINE, GROWTH

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BestCurves:
    """Loss curves of both arms.

    Attributes:
        curves: one curve per run, in the group of its arm.
        confirmed: whether the runs are confirmation runs.
        missing: names of trials whose run folder is missing or has no eval loss.
    """

    curves: Sequence[Curve]
    confirmed: bool
    missing: Sequence[str]

    def runs(self, arm: str) -> int:
        """Return the number of curves of an arm."""
        return sum(curve.group == arm for curve in self.curves)


def best_curves(study: Study, confirmed: Confirmation | None) -> BestCurves:
    """Read the curves of the best growth trial and the best baseline trial, or of their repetitions."""
    wanted: dict[str, Sequence[Trial]] = {arm: best(study.of(arm)) for arm in (GROWTH, BASELINE)}
    if confirmed is not None:
        wanted = {each.arm: each.trials for each in confirmed.arms}
    found, missing = [], []
    for arm, trials in wanted.items():
        for trial in trials:
            curve = _curve(study, trial, arm)
            if curve is None:
                missing.append(trial.name)
            else:
                found.append(curve)
    return BestCurves(found, confirmed is not None, missing)


def _curve(study: Study, trial: Trial, arm: str) -> Curve | None:
    """Return the eval loss of a run over FLOPs; None if it cannot be read."""
    path = study.run(trial)
    if not path.is_dir():
        return None
    try:
        (curve,) = curve_metric.read([f"{arm}={path}"], run_folder.EVAL_LOSS)
    except (BadInput, OSError, ValueError):
        return None
    known = len(curve.table) and not curve.table[col.FLOPS].isna().any() and curve.diverged is None
    return curve if known else None


def mean_curve(curves: Sequence[Curve]) -> pd.DataFrame:
    """Return mean, lowest and highest loss of some runs at the FLOPs of the first run's evaluations.

    Losses are interpolated linearly. Points that not all runs have reached are left out.

    Returns:
        flops, loss (mean), loss_low, loss_high.
    """
    import pandas as pd

    at = curves[0].table[col.FLOPS].to_numpy(dtype=float)
    losses = np.array([[loss_at(curve, point, col.FLOPS) for point in at] for curve in curves])
    known = np.isfinite(losses).all(axis=0)
    at, losses = at[known], losses[:, known]
    bounds = {col.LOSS: losses.mean(axis=0), col.LOSS_LOW: losses.min(axis=0), col.LOSS_HIGH: losses.max(axis=0)}
    return pd.DataFrame({col.FLOPS: at, **bounds})

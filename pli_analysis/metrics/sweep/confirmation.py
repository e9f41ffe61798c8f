"""The confirmation of a study: means over new seeds, and the paired difference of the arms.

Only confirmation trials are used. The trials of the search are biased: the best of them were selected by their value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import group_difference
from pli_analysis.metrics.comparison.group_difference import Estimate
from pli_analysis.metrics.sweep.trials import Study, Trial, best
from pli_train.core.run_format.study_folder import BASELINE, COMPLETE, CONFIRM, GROWTH

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Confirmed:
    """The repetitions of one trial.

    Attributes:
        arm, number: the repeated trial.
        trials: its complete repetitions, by seed.
        planned: number of its repetitions, complete or not.
        is_best: whether it is still the best trial of its arm.
        mean: mean value, with Student's t interval.
    """

    arm: str
    number: int
    trials: Sequence[Trial]
    planned: int
    is_best: bool
    mean: Estimate


@dataclass(frozen=True)
class Confirmation:
    """The confirmation of a study.

    Attributes:
        arms: repetitions of one trial per arm, without arms that have none.
        difference: growth − baseline, with the paired t interval; None without pairs.
        seeds: seeds that both arms have.
    """

    arms: Sequence[Confirmed]
    difference: Estimate | None
    seeds: Sequence[int]

    def of(self, arm: str) -> Confirmed | None:
        """Return the repetitions of an arm's trial."""
        return next((each for each in self.arms if each.arm == arm), None)

    def table(self) -> pd.DataFrame:
        """Return one row for each arm: arm, of_trial, trials (n), mean, mean_low, mean_high."""
        import pandas as pd

        columns = [col.ARM, col.OF_TRIAL, col.TRIALS, col.MEAN, col.MEAN_LOW, col.MEAN_HIGH]
        return pd.DataFrame([(a.arm, a.number, len(a.trials), *a.mean) for a in self.arms], columns=columns)


def confirmation(study: Study) -> Confirmation | None:
    """Return the confirmation of a study; None if no confirmation trial is complete.

    If several trials of an arm were repeated, the arm's current best one is used, or else the one repeated last.
    """
    arms = [found for arm in (GROWTH, BASELINE) if (found := _confirmed(study, arm))]
    if not arms:
        return None
    values = {each.arm: {t.seed: t.value for t in each.trials if t.seed is not None} for each in arms}
    growth, baseline = values.get(GROWTH, {}), values.get(BASELINE, {})
    seeds = sorted(growth.keys() & baseline.keys())
    if not seeds:
        return Confirmation(arms, None, [])
    mine, base = (np.array([of[seed] for seed in seeds], dtype=float) for of in (growth, baseline))
    pairs = [(position, position) for position in range(len(seeds))]
    return Confirmation(arms, group_difference.difference(base, mine, pairs), seeds)


def _confirmed(study: Study, arm: str) -> Confirmed | None:
    """Return the repetitions of an arm's trial."""
    again = [trial for trial in study.of(CONFIRM) if trial.of_arm == arm and trial.of_trial is not None]
    complete = [trial for trial in again if trial.state == COMPLETE]
    if not complete:
        return None
    current = {trial.number for trial in best(study.of(arm))[:1]}
    number = next((trial.of_trial for trial in complete if trial.of_trial in current), complete[-1].of_trial)
    assert number is not None
    mine = sorted((trial for trial in complete if trial.of_trial == number), key=lambda trial: trial.seed or 0)
    values = np.array([trial.value for trial in mine], dtype=float)
    planned = sum(trial.of_trial == number for trial in again)
    return Confirmed(arm, number, mine, planned, number in current, group_difference.mean(values))

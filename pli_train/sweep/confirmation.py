"""Confirm a search: repeat the best trial of each arm with new seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState

from pli_train.core.run_format.study_folder import BASELINE, CONFIRM, GROWTH, SEED
from pli_train.sweep.arms import Proposal
from pli_train.sweep.study import PLAN
from pli_train.sweep.summary import best

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pli_train.sweep.space import Space
    from pli_train.sweep.study import Study

Wanted = tuple[str, int, int]
"""Arm and number of the repeated trial, and the offset added to the base seed."""


@dataclass(frozen=True)
class Confirmation:
    """The arm that repeats the best trials of the other arms.

    Attributes:
        wanted: trials and seeds to run.
        target: number of trials of this arm; larger than `wanted` if another trial was the best before.
        spaces: arm → space.
    """

    wanted: tuple[Wanted, ...]
    target: int
    spaces: Mapping[str, Space]
    name: str = CONFIRM

    def propose(self, study: Study, trial: FrozenTrial) -> Proposal:
        """Return a repetition that no other trial has, or will be given by another machine at the same time."""
        others = study.trials(CONFIRM)
        given = {_given(other) for other in others}
        left = [wanted for wanted in self.wanted if wanted not in given]
        unplanned = [other.number for other in others if PLAN not in other.user_attrs and not other.state.is_finished()]
        arm, number, seed = left[unplanned.index(trial.number)]
        space = self.spaces[arm]
        chosen = space.suggest(optuna.trial.FixedTrial(next(t for t in study.trials(arm) if t.number == number).params))
        return Proposal(arm, {**chosen, SEED: seed}, {"of_arm": arm, "of_trial": number, "offset": seed})


def confirmation(study: Study, spaces: Mapping[str, Space], seeds: int) -> Confirmation:
    """Plan the confirmation of a finished search.

    Args:
        study: study with the trials.
        spaces: arm → space.
        seeds: number of seeds, the same for all arms, so that runs form pairs.
    """
    used = [seed for space in spaces.values() for p in space.parameters if p.name == SEED for seed in p.choices]
    first = max(map(int, used), default=0) + 1
    found = [(arm, trials[0].number) for arm in spaces if (trials := best(study.trials(arm)))]
    wanted = tuple((arm, number, first + seed) for seed in range(seeds) for arm, number in found)
    others = [given for trial in study.trials(CONFIRM) if (given := _given(trial)) and given not in wanted]
    return Confirmation(wanted, len(wanted) + len(others), spaces)


def confirmed(study: Study, wanted: tuple[Wanted, ...]) -> Iterator[str]:
    """Yield a line per arm and one for their difference, computed from confirmation trials only."""
    values: dict[str, dict[int, float]] = {GROWTH: {}, BASELINE: {}}
    for trial in study.trials(CONFIRM, (TrialState.COMPLETE,)):
        if (given := _given(trial)) in wanted and given is not None:
            values[given[0]][given[2]] = trial.value or 0.0
    for arm, found in values.items():
        if found:
            yield f"confirmed {arm}: {np.mean(list(found.values())):.4f} over {len(found)} fresh seeds"
    both = sorted(values[GROWTH].keys() & values[BASELINE].keys())
    if both:
        yield _difference(np.array([values[GROWTH][seed] - values[BASELINE][seed] for seed in both]))


def _difference(differences: np.ndarray) -> str:
    mean, count = differences.mean(), len(differences)
    if count < 2:
        return f"growth - baseline: {mean:+.4f} (one pair of runs: no interval)"
    from scipy import stats

    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / count**0.5
    return (
        f"growth - baseline: {mean:+.4f} (95 % interval {mean - half:+.4f} to {mean + half:+.4f}, paired t over "
        f"{count} seeds)"
    )


def _given(trial: FrozenTrial) -> Wanted | None:
    plan: dict[str, Any] = trial.user_attrs.get(PLAN, {})
    return (plan["of_arm"], plan["of_trial"], plan["offset"]) if "of_arm" in plan else None

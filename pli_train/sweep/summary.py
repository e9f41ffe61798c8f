"""Summarize a study: the best trials of its arms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from pli_train.core.run_format.study_folder import SEED

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pli_train.sweep.study import Study


def best(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials with the lowest mean value over seeds: one per seed. Empty if no trial is complete.

    Only parameter values with the most seeds are considered. A search may draw the same values twice: such trials are
    copies of one run, of which the first counts.
    """
    variants: dict[str, dict[int, FrozenTrial]] = defaultdict(dict)
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            variants[repr(sorted(_without_seed(trial).items()))].setdefault(trial.params.get(SEED, 0), trial)
    most = max(map(len, variants.values()), default=0)
    whole = [list(seeds.values()) for seeds in variants.values() if len(seeds) == most]
    return min(whole, key=lambda found: fmean(trial.value or 0.0 for trial in found), default=[])


def summary(study: Study) -> Iterator[str]:
    """Yield one line per arm: its best value and parameters."""
    for arm in study.arms:
        trials = study.trials(arm)
        found = best(trials)
        failed = sum(trial.state == TrialState.FAIL for trial in trials)
        note = f"; {failed} of {len(trials)} failed" if failed else ""
        if not found:
            yield f"best {arm}: none{note}"
            continue
        value = fmean(trial.value or 0.0 for trial in found)
        chosen = ", ".join(f"{name} = {_short(value)}" for name, value in _without_seed(found[0]).items())
        seeds = f" over {len(found)} seeds" if len(found) > 1 else ""
        yield f"best {arm}: {value:.4f}{seeds} ({chosen or 'the base config'}){note}"


def _without_seed(trial: FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in trial.params.items() if name != SEED}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

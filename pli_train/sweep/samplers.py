"""Sample the parameters of the next trial: TPE, random, or grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import BaseSampler

from pli_train.core.randomness import derive

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class GridSampler(BaseSampler):
    """Gives trial n the grid point n, so that several machines need no coordination.

    Args:
        points: for each point, parameter → value in Optuna's form.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        self._points = points

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: no parameters are sampled jointly."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: no parameters are sampled jointly."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter at the grid point of the trial."""
        return self._points[trial.number % len(self._points)][param_name]


def sampler(kind: str, seed: int, arm: str, number: int, points: Sequence[Mapping[str, Any]]) -> BaseSampler:
    """Create the sampler of a trial.

    Args:
        kind: one of `study_folder.Sampler`.
        seed: seed of the study.
        arm: arm of the trial.
        number: number of the trial. Each trial has its own sampler, so that a resumed study draws the same values as
            an uninterrupted one.
        points: grid points; empty for other samplers.
    """
    if kind == "grid":
        return GridSampler(points)
    drawn = derive(seed, f"sampler/{arm}", number) % 2**32
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=drawn)
    return optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True, constant_liar=True)

"""Choose the next trial's parameters: TPE, at random, or point by point of a grid."""

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
    """Gives trial number n the point number n of a grid, so that several machines need not agree on who takes which.

    Args:
        points: parameter → value as Optuna has it, for each point.
    """

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        self._points = points

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No parameters are sampled together."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """No parameters are sampled together."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the point's value of a parameter."""
        return self._points[trial.number % len(self._points)][param_name]


def sampler(kind: str, seed: int, arm: str, number: int, points: Sequence[Mapping[str, Any]]) -> BaseSampler:
    """Make the sampler of one trial.

    Args:
        kind: one of `study_folder.Sampler`.
        seed: of the study.
        arm: of the trial.
        number: of the trial. A sampler is made for each, so that a study that was interrupted draws the same numbers
            as one that was not.
        points: of the grid; empty for other samplers.
    """
    if kind == "grid":
        return GridSampler(points)
    drawn = derive(seed, f"sampler/{arm}", number) % 2**32
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=drawn)
    return optuna.samplers.TPESampler(seed=drawn, multivariate=True, group=True, constant_liar=True)

"""The arms of a study: growth, and the full-depth baseline with a tuned learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna

from pli_train.core.run_format.study_folder import BASELINE, GROWTH
from pli_train.sweep.samplers import sampler

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pli_train.config.schema import RunConfig
    from pli_train.sweep.space import Space
    from pli_train.sweep.study import Settings, Study


@dataclass(frozen=True)
class Proposal:
    """The parameters of a trial.

    Attributes:
        arm: arm whose configs the trial uses.
        chosen: parameter → value.
        attributes: further fields of the plan.
    """

    arm: str
    chosen: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A part of a study with its own sampler.

    Attributes:
        name: `growth` or `baseline`.
        space: search space.
        target: number of trials.
        points: grid points in Optuna's form; empty if the space is searched.
    """

    name: str
    space: Space
    target: int
    points: Sequence[Mapping[str, Any]] = ()

    def propose(self, study: Study, trial: FrozenTrial) -> Proposal:
        """Sample the parameters of a trial; values that were already sampled are kept."""
        settings, searched = study.settings, study.arm(self.name)
        searched.sampler = sampler(settings.sampler, settings.seed, self.name, trial.number, self.points)
        return Proposal(self.name, self.space.suggest(optuna.trial.Trial(searched, trial._trial_id)))


def spaces(settings: Settings, base: RunConfig) -> dict[str, Space]:
    """Return arm → space."""
    found = {GROWTH: settings.space}
    if settings.baseline:
        found[BASELINE] = settings.space.of_baseline(base.optim.lr, base.optim.lr_end)
    return found


def arms(settings: Settings, base: RunConfig, trials: int) -> list[Arm]:
    """Create the arms of a study.

    Args:
        settings: settings of the study.
        base: base config.
        trials: number of trials per arm, if the space is searched.

    Raises:
        BadInput: when the sampler is `grid` and a parameter has a range.
    """
    made = []
    for name, space in spaces(settings, base).items():
        if settings.sampler == "grid":
            points = [space.labeled(point) for point in space.grid()]
            made.append(Arm(name, space, len(points), points))
        else:
            made.append(Arm(name, space, trials))
    return made

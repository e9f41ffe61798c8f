"""Parameter importance by fANOVA (Hutter, Hoos and Leyton-Brown 2014).

A random forest predicts the value of a trial from its parameters. The importance of a parameter is the share of the
variance of the prediction over the search space that the parameter explains on its own. The rest is due to
interactions. Optuna computes it on a study in memory that is rebuilt from the table of trials. A range that is sampled
on a logarithmic scale is passed as its logarithm, because Optuna would otherwise integrate over it on a linear scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_analysis.metrics.sweep.trials import Study, Trial, label
from pli_train.core.errors import counted
from pli_train.core.run_format.study_folder import COMPLETE, GROWTH

if TYPE_CHECKING:
    import pandas as pd
    from optuna.distributions import BaseDistribution

FEWEST = 8
"""Fewest complete trials from which importance is computed."""
FOREST_SEED = 0
"""Seed of the forest, so that two calls give the same result."""


@dataclass(frozen=True)
class Importance:
    """Importance of the parameters of an arm.

    Attributes:
        table: parameter, importance; the most important first. Empty if it was not computed.
        trials: number of complete trials.
        omitted: parameter → why it is not in the table.
        reason: why nothing was computed; empty if it was.
    """

    table: pd.DataFrame
    trials: int
    omitted: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def importance(study: Study, arm: str = GROWTH) -> Importance:
    """Compute the importance of an arm's parameters.

    Parameters that some complete trials lack are left out, because a forest needs a value for each trial: their effect
    is part of that of the parameter in their condition. So are parameters with one value only.
    """
    import pandas as pd

    trials = study.of(arm, COMPLETE)
    shared, omitted = _shared(trials)
    reason = ""
    if len(trials) < FEWEST:
        reason = f"{counted(len(trials), 'complete trial')} of the arm {arm}, and at least {FEWEST} are needed"
    elif len(shared) < 2:
        reason = f"fewer than two parameters differ between all trials of the arm {arm}"
    elif len({trial.value for trial in trials}) == 1:
        reason = f"all trials of the arm {arm} have the same value"
    found = {} if reason else _fanova(trials, shared, study.space.get("parameters"))
    table = pd.DataFrame(list(found.items()), columns=[col.PARAMETER, col.IMPORTANCE])
    return Importance(table, len(trials), omitted, reason)


def _shared(trials: Sequence[Trial]) -> tuple[list[str], dict[str, str]]:
    """Return the parameters that differ and that all trials have, and why the others are left out."""
    shared, omitted = [], {}
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        values = [trial.params[name] for trial in trials if name in trial.params]
        if len(values) < len(trials):
            omitted[name] = f"only {len(values)} of {len(trials)} trials have it"
        elif len({repr(value) for value in values}) == 1:
            omitted[name] = f"has the value {label(values[0])} in all trials"
        else:
            shared.append(name)
    return shared, omitted


def _fanova(trials: Sequence[Trial], names: Sequence[str], space: object) -> dict[str, float]:
    """Return parameter → importance, the largest first."""
    import optuna

    scales = {name: _scale(_spec(space, name), [trial.params[name] for trial in trials]) for name in names}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: scale.of(trial.params[name]) for name, scale in scales.items()},
                distributions={name: scale.distribution for name, scale in scales.items()},
                value=trial.value,
            )
            for trial in trials
        ]
    )
    return optuna.importance.FanovaImportanceEvaluator(seed=FOREST_SEED).evaluate(study, params=list(names))


@dataclass(frozen=True)
class _Scale:
    """Optuna's distribution of a parameter, and whether it is that of the logarithm."""

    distribution: BaseDistribution
    log: bool = False

    def of(self, value: Any) -> Any:
        return math.log(value) if self.log else value


def _spec(space: object, name: str) -> Mapping[str, Any]:
    """Return a parameter's form in study.json; empty if it is not there."""
    spec = space.get(name) if isinstance(space, dict) else None
    return spec if isinstance(spec, dict) else {}


def _scale(spec: Mapping[str, Any], values: Sequence[Any]) -> _Scale:
    """Return the scale of a parameter from its form in study.json, or else from its values."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    choices = spec.get("choices")
    if isinstance(choices, list) or not numeric:
        known = [each if isinstance(each, bool | int | float | str) else str(each) for each in choices or ()]
        return _Scale(CategoricalDistribution(list(dict.fromkeys([*known, *values]))))
    ends = [bound for name in ("low", "high") if isinstance(bound := spec.get(name), int | float)]
    low, high = min([*values, *ends]), max([*values, *ends])
    if spec.get("log") is True and low > 0:
        return _Scale(FloatDistribution(math.log(low), math.log(high)), log=True)
    return _Scale(FloatDistribution(float(low), float(high)))

"""The search space of a sweep: parameters with values, ranges and conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput
from pli_train.core.run_format.study_folder import SEED

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

RATE = "optim.lr"
AROUND = 4.0
"""If the space has no learning rate, the baseline's is tuned from the base's ÷ AROUND to the base's × AROUND."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a space.

    Attributes:
        name: a config key, `schedule.…` for a schedule rule, or `seed`.
        choices: list of values; empty for a range.
        low, high, log, step: the range, if there are no choices; integers if `low` and `high` are.
        when: other parameter → values. The parameter exists only if each of them has one of these values.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @staticmethod
    def label(value: Any) -> Any:
        """Return a choice in Optuna's form: lists and tables become text."""
        return value if isinstance(value, bool | int | float | str) else str(value)

    @property
    def labels(self) -> dict[Any, Any]:
        """Choice in Optuna's form → choice."""
        return {self.label(value): value for value in self.choices}

    def suggest(self, trial: BaseTrial) -> Any:
        """Ask Optuna for a value."""
        if self.choices:
            return self.labels[trial.suggest_categorical(self.name, list(self.labels))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> tuple[Any, ...]:
        """Return values to check before a study starts: all choices, or both ends of a range; of seeds, the first."""
        return self.choices[:1] if self.name == SEED else self.choices or (self.low, self.high)

    def to_table(self) -> dict[str, Any]:
        """Return the form in study.json."""
        table: dict[str, Any] = (
            {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high}
        )
        if not self.choices:
            table |= {"log": self.log} | ({"step": self.step} if self.step else {})
        return table | ({"when": {name: list(values) for name, values in self.when.items()}} if self.when else {})


@dataclass(frozen=True)
class Space:
    """The parameters that a study varies, and those that are fixed.

    Attributes:
        name: name of the space's file or preset.
        base: preset or config file of the runs.
        fixed: config key → value, for all runs.
        rule: fixed values of the schedule rule.
        parameters: searched parameters, each after those in its conditions.
        baseline: config key → value that the baseline changes in the full-depth base config.
        seeds: number of seeds per grid point; 0 if the space is searched.
    """

    name: str
    base: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    baseline: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 0

    def to_table(self) -> dict[str, Any]:
        """Return the form in study.json."""
        return {
            "set": dict(self.fixed),
            "schedule": dict(self.rule),
            "parameters": {parameter.name: parameter.to_table() for parameter in self.parameters},
            "baseline": dict(self.baseline),
            "seeds": self.seeds,
        }

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return parameter → value of a trial; the same values when called again for the same trial."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if _applies(parameter, chosen):
                chosen[parameter.name] = parameter.suggest(trial)
        return chosen

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations of choices that meet the conditions. Raises BadInput when a parameter has a range."""
        if ranges := [parameter.name for parameter in self.parameters if not parameter.choices]:
            raise BadInput(f"{self.name}: {', '.join(ranges)}: a grid needs a list of values, not a range")
        points: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            points = [
                point | ({parameter.name: value} if value is not _ABSENT else {})
                for point in points
                for value in (parameter.choices if _applies(parameter, point) else (_ABSENT,))
            ]
        return points

    def labeled(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return a grid point in Optuna's form."""
        parameters = {parameter.name: parameter for parameter in self.parameters}
        return {name: parameters[name].label(value) for name, value in point.items()}

    def of_baseline(self, rate: float, lowest: float = 0.0) -> Space:
        """Return the space of the baseline: the optimizer parameters and the seed.

        The learning rate is always tuned. If the space does not contain it, a search uses a range around that of the
        base config, and a grid as many values as there are growth variants, so that both arms have equally many runs.

        Args:
            rate: learning rate of the base config.
            lowest: lower bound of the learning rate.
        """
        kept = [p for p in self.parameters if p.name.startswith("optim.") or p.name == SEED]
        names = {parameter.name for parameter in kept}
        kept = [parameter for parameter in kept if set(parameter.when) <= names]
        if RATE not in names and RATE not in self.baseline:
            low, high = max(rate / AROUND, lowest), rate * AROUND
            if not self.is_grid:
                kept.append(Parameter(RATE, low=low, high=high, log=True))
            elif (count := len(self.grid()) // max(self.seeds, 1) // _count(kept)) > 1:
                ratios = [number / (count - 1) for number in range(count)]
                kept.append(Parameter(RATE, tuple(float(f"{low * (high / low) ** at:.4g}") for at in ratios)))
        return replace(self, parameters=tuple(kept), rule={})

    @property
    def is_grid(self) -> bool:
        """Whether all grid points are run, instead of a search."""
        return self.seeds > 0

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield combinations that contain each value of each parameter, to check before a study starts."""
        for parameter in self.parameters:
            for value in parameter.examples():
                wanted = {name: values[0] for name, values in parameter.when.items()} | {parameter.name: value}
                chosen: dict[str, Any] = {}
                for other in self.parameters:
                    if _applies(other, chosen) or other.name in wanted:
                        chosen[other.name] = wanted.get(other.name, other.examples()[0])
                yield chosen
        if not self.parameters:
            yield {}


_ABSENT = object()


def _count(parameters: Sequence[Parameter]) -> int:
    """Return the number of grid points of parameters without conditions, not counting seeds."""
    return math.prod(len(parameter.choices) for parameter in parameters if parameter.name != SEED)


def _applies(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    return all(chosen.get(name, _ABSENT) in values for name, values in parameter.when.items())


def with_seeds(parameters: Sequence[Parameter], seeds: int) -> list[Parameter]:
    """Return the parameters, preceded by the seed: 0 to `seeds` - 1, added to the base seed."""
    return [Parameter(SEED, tuple(range(seeds))), *parameters]

"""Learning rates summed over steps, and the phase of the learning-rate schedule.

A run of ours has them in closed form, from the config in its `run.json` and the events in its lineage: the same
functions that training uses (`core.learning_rate`), whatever `train.log_every` is. Runs of others have no such
config; there the logged rates are interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pli_train.core import learning_rate
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_analysis.runs.run import Run
    from pli_analysis.scalars.reading import Scalars
    from pli_train.core.lineage import Lineage

NAN = float("nan")
SCHEDULES = (*learning_rate.SHAPES, "wsd")


class Rates(Protocol):
    """The learning rates of a run."""

    def at(self, step: int) -> float:
        """The rate of the update after `step` finished ones, without a layer's own pace; NaN when unknown."""

    def between(self, layer: str, start: int, end: int) -> float:
        """The sum of a layer's rates over the updates after `start` up to and with `end`; NaN when unknown."""

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """The phase that the updates after `start` up to and with `end` share; None when they do not, or unknown.

        Args:
            start, end: steps without an event strictly between them, save `event`.
            event: a step whose own events, and those after it, are left out of account.
        """


def rates_of(run: Run) -> Rates:
    """The rates of a run, in closed form if its config is known.

    Raises:
        BadInput: when `run.json` has an [optim] section that no run can have.
    """
    config, total = run.record.get("config"), run.record.get("total_steps")
    optim = config.get("optim") if isinstance(config, dict) else None
    if not isinstance(optim, dict) or type(total) is not int or total < 1:
        return Logged(run.scalars)
    # While a run trains, a checkpoint may be newer than the run's lineage as it was read.
    newest = max((run.lineage, run.checkpoints[-1].lineage), key=lambda lineage: len(lineage.events))
    return ScheduledRates(Optim.read(optim, f"{run.path / run_folder.RUN}"), total, newest)


@dataclass(frozen=True)
class Optim:
    """The fields of a run's [optim] section that decide its learning rate: see `OptimConfig`."""

    lr: float
    lr_end: float
    schedule: str
    warmup_ratio: float
    decay_ratio: float

    @classmethod
    def read(cls, table: Mapping[str, Any], source: str) -> Optim:
        """Read plain values. Raises BadInput, naming `source`, when one is missing or is not what it should be."""
        numbers = {name: table.get(name) for name in ("lr", "lr_end", "warmup_ratio", "decay_ratio")}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BadInput(f"{source}: optim.{name} is {value!r}, not a number from 0 on")
        schedule = table.get("schedule")
        if schedule not in SCHEDULES:
            raise BadInput(f"{source}: optim.schedule is {schedule!r}, not one of {', '.join(SCHEDULES)}")
        return cls(schedule=schedule, **{name: float(value or 0) for name, value in numbers.items()})


class ScheduledRates:
    """Rates in closed form.

    Args:
        optim: the run's [optim] section.
        total_steps: of the whole training.
        lineage: for what events did to the rate and to the pace of each birth.
    """

    def __init__(self, optim: learning_rate.Optim, total_steps: int, lineage: Lineage) -> None:
        self._optim, self._total, self._lineage = optim, total_steps, lineage
        self._rates: list[float] = []
        self._before: dict[int | None, Lineage] = {None: lineage}
        self._sums: dict[int, np.ndarray] = {}
        self._phases: dict[tuple[int, int | None], str] = {}

    def at(self, step: int) -> float:
        """The rate of the update after `step` finished ones."""
        return learning_rate.at_step(step, self._total, self._optim, self._lineage.events)

    def between(self, layer: str, start: int, end: int) -> float:
        """The sum over the updates after `start` up to and with `end`."""
        birth = self._lineage.layers[layer].birth
        sums = self._until(learning_rate.FOUNDER if birth.event is None else birth.step, max(start, end))
        return float(sums[end] - sums[start])

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """The phase of all these updates; None when there are several. Frozen layers make a phase of their own."""
        first, last = (self._phase(step, event) for step in (start, end - 1))
        return first if first == last else None

    def _phase(self, step: int, event: int | None) -> str:
        if (step, event) not in self._phases:
            if event not in self._before:
                self._before[event] = self._lineage.as_of(sum(one.step < (event or 0) for one in self._lineage.events))
            lineage = self._before[event]
            name = learning_rate.phase(step, self._total, self._optim, lineage.events)
            frozen = learning_rate.waiting(lineage, step) is not None
            self._phases[step, event] = f"{name} with frozen layers" if frozen else name
        return self._phases[step, event]

    def _until(self, born: int, end: int) -> np.ndarray:
        """(n > end,): the sum of the rates of the first 0, 1, 2, … updates for what was born at a step."""
        if len(self._sums.get(born, ())) <= end:
            events = self._lineage.events
            while len(self._rates) < end:
                self._rates.append(self.at(len(self._rates)))
            update_scale = np.ones(len(self._rates))
            for event in events:
                slow = max(event.facts.get("freeze_steps", 0), event.facts.get("rewarm_steps", 0))
                for step in range(event.step, min(event.step + slow, len(update_scale))):
                    update_scale[step] = learning_rate.of_birth(born, self._lineage, step)
            self._sums[born] = np.concatenate([[0.0], np.cumsum(np.array(self._rates) * update_scale)])
        return self._sums[born]


class Logged:
    """Rates as somebody logged them.

    Between two logs they are taken to lie on a straight line, and outside them to be level. Where logs are further
    apart than the schedule is straight, in warm-up say, sums are off by that.
    """

    def __init__(self, scalars: Scalars) -> None:
        self._scalars = scalars
        self._known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}

    def at(self, step: int) -> float:
        """The rate of the update after `step` finished ones."""
        logged = self._scalars.of(run_folder.LR)
        return float(np.interp(step + 1, logged.steps, logged.values)) if len(logged.steps) else NAN

    def between(self, layer: str, start: int, end: int) -> float:
        """The sum over the updates after `start` up to and with `end`; NaN when none were logged."""
        if layer not in self._known:
            self._known[layer] = self._of(layer)
        logged = self._known[layer]
        if logged is None:
            return NAN
        return self._until(end, *logged) - self._until(start, *logged)

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """Whether the logged rate is rising, level or falling over all these updates; None when it does not say."""
        logged = self._scalars.of(run_folder.LR)
        first, last = np.searchsorted(logged.steps, (start + 1, end))
        if first == 0 or last >= len(logged.steps):
            return None
        signs = set(np.sign(np.diff(logged.values[first - 1 : last + 1])).tolist())
        return {1.0: "rising", 0.0: "level", -1.0: "falling"}.get(signs.pop()) if len(signs) == 1 else None

    def _of(self, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        own = self._scalars.of(run_folder.LR_OF_LAYER + layer)
        logged = own if len(own.steps) else self._scalars.of(run_folder.LR)
        if not len(logged.steps):
            return None
        steps = np.concatenate([[0.0], logged.steps.astype(np.float64)])
        values = np.concatenate([logged.values[:1], logged.values]).astype(np.float64)
        widths = np.diff(steps)
        with np.errstate(invalid="ignore", over="ignore"):
            segments = widths * (values[:-1] + values[1:]) / 2 + (values[1:] - values[:-1]) / 2
        return steps, values, np.concatenate([[0.0], np.cumsum(np.where(widths > 0, segments, 0.0))])

    def _until(self, step: int, steps: np.ndarray, values: np.ndarray, sums: np.ndarray) -> float:
        """Σ of the rates of updates 1 to `step`: an arithmetic series from one log to the next."""
        at = int(np.searchsorted(steps, step, side="right")) - 1
        value = float(np.interp(step, steps, values))
        width = step - steps[at]
        return float(sums[at] + (width * (values[at] + value) / 2 + (value - values[at]) / 2 if width > 0 else 0.0))

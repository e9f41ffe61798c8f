"""Learning rates summed over steps, and the phase of the learning-rate schedule.

The learning rates of a pli run are computed from the config in its `run.json` and the events in its lineage, with the
functions that training uses (`core.learning_rate`), independent of `train.log_every`. Runs of other libraries have no
such config: their logged rates are interpolated.
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
        """Return the rate of the update after `step` completed ones, without scaling by layer; NaN if unknown."""

    def between(self, layer: str, start: int, end: int) -> float:
        """Return the sum of a layer's rates over updates `start` + 1 to `end`; NaN if unknown."""

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """Return the phase of updates `start` + 1 to `end`; None if they are in several phases, or if unknown.

        Args:
            start, end: steps with no event strictly between them except `event`.
            event: ignore the events of this step and of later ones.
        """


def rates_of(run: Run) -> Rates:
    """Return the learning rates of a run, computed if its config is known, else interpolated.

    Raises:
        BadInput: if the [optim] section in `run.json` is not valid.
    """
    config, total = run.record.get("config"), run.record.get("total_steps")
    optim = config.get("optim") if isinstance(config, dict) else None
    if not isinstance(optim, dict) or type(total) is not int or total < 1:
        return Logged(run.scalars)
    # While a run trains, its last checkpoint may be newer than the lineage file that was read.
    newest = max((run.lineage, run.checkpoints[-1].lineage), key=lambda lineage: len(lineage.events))
    return ScheduledRates(Optim.read(optim, f"{run.path / run_folder.RUN}"), total, newest)


@dataclass(frozen=True)
class Optim:
    """The fields of a run's [optim] section that determine its learning rate: see `OptimConfig`."""

    lr: float
    lr_end: float
    schedule: str
    warmup_ratio: float
    decay_ratio: float

    @classmethod
    def read(cls, table: Mapping[str, Any], source: str) -> Optim:
        """Read the fields of a table. Raises BadInput, naming `source`, if one is missing or not valid."""
        numbers = {name: table.get(name) for name in ("lr", "lr_end", "warmup_ratio", "decay_ratio")}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise BadInput(f"{source}: optim.{name} is {value!r}, expected a number of at least 0")
        schedule = table.get("schedule")
        if schedule not in SCHEDULES:
            raise BadInput(f"{source}: optim.schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
        return cls(schedule=schedule, **{name: float(value or 0) for name, value in numbers.items()})


class ScheduledRates:
    """Learning rates computed from the schedule.

    Args:
        optim: the run's [optim] section.
        total_steps: total number of training steps.
        lineage: its events affect the learning rate, and its births the rates of newborn and frozen layers.
    """

    def __init__(self, optim: learning_rate.Optim, total_steps: int, lineage: Lineage) -> None:
        self._optim, self._total, self._lineage = optim, total_steps, lineage
        self._rates: list[float] = []
        self._before: dict[int | None, Lineage] = {None: lineage}
        self._sums: dict[int, np.ndarray] = {}
        self._phases: dict[tuple[int, int | None], str] = {}

    def at(self, step: int) -> float:
        """Return the rate of the update after `step` completed ones."""
        return learning_rate.at_step(step, self._total, self._optim, self._lineage.events)

    def between(self, layer: str, start: int, end: int) -> float:
        """Return the sum of a layer's rates over updates `start` + 1 to `end`."""
        birth = self._lineage.layers[layer].birth
        sums = self._until(learning_rate.FOUNDER if birth.event is None else birth.step, max(start, end))
        return float(sums[end] - sums[start])

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """Return the phase of these updates; None for several. Steps with frozen layers are a phase of their own."""
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
        """Return the sums of rates over the first 0, 1, 2, … updates, (n > end,), for layers born at a step."""
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
    """Logged learning rates.

    They are linearly interpolated between two logged steps, and constant outside them. Sums are inexact where the
    schedule bends between two logged steps, as in warm-up.
    """

    def __init__(self, scalars: Scalars) -> None:
        self._scalars = scalars
        self._known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}

    def at(self, step: int) -> float:
        """Return the rate of the update after `step` completed ones; NaN if none were logged."""
        logged = self._scalars.of(run_folder.LR)
        return float(np.interp(step + 1, logged.steps, logged.values)) if len(logged.steps) else NAN

    def between(self, layer: str, start: int, end: int) -> float:
        """Return the sum of a layer's rates over updates `start` + 1 to `end`; NaN if none were logged."""
        if layer not in self._known:
            self._known[layer] = self._of(layer)
        logged = self._known[layer]
        if logged is None:
            return NAN
        return self._until(end, *logged) - self._until(start, *logged)

    def phase(self, start: int, end: int, event: int | None = None) -> str | None:
        """Return `rising`, `level` or `falling` if the logged rate is so over all these updates; else None."""
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
        """Return the sum of the rates of updates 1 to `step`: an arithmetic series between successive logs."""
        at = int(np.searchsorted(steps, step, side="right")) - 1
        value = float(np.interp(step, steps, values))
        width = step - steps[at]
        return float(sums[at] + (width * (values[at] + value) / 2 + (value - values[at]) / 2 if width > 0 else 0.0))

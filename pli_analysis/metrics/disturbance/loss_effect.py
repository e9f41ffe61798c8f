"""Effect of growth events on the loss, compared with placebo steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.disturbance import placebo
from pli_analysis.metrics.disturbance.loss_response import FEWEST, SMOOTH, LossResponse, response_at
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from pli_analysis.metrics.disturbance.event_context import EventContext
    from pli_analysis.runs.run import Run

COLUMNS = [col.LOSS_BEFORE, col.LOSS_AFTER, col.WINDOW, col.REFERENCE, col.SPIKE, col.RECOVERY_STEPS, col.IS_RECOVERED]
COLUMNS += [col.EXCESS_AREA, col.LATE_EXCESS, col.NOISE, col.PLACEBO_WINDOW, col.LR_PHASE, col.SPIKE_Z, col.SPIKE_P]
COLUMNS += [col.EXCESS_AREA_P, col.PLACEBOS, col.MIN_P]
NAN = float("nan")
SHRINK = 0.9
"""Ratio of each placebo window that is tried to the one before."""


@dataclass(frozen=True)
class Losses:
    """Measures the effect of events on the loss: relative to a twin or a trend, and to at most `most` placebo steps."""

    context: EventContext
    most: int

    def after(self, step: int) -> LossResponse | None:
        """Return the loss after a step, relative to the twin's if there is one; None if too few losses were logged."""
        twin = self.context.twin(step)
        theirs = self.logged[twin.path] if twin is not None else None
        return response_at(*self.logged[self.context.run.path], step, self.context.steps_left(step), theirs)

    def row(self, step: int, response: LossResponse | None) -> dict[str, object]:
        """Return the values of `COLUMNS` for an event."""
        scalars, twin = self.context.run.scalars, self.context.twin(step)
        sides = {col.LOSS_BEFORE: run_folder.EVAL_LOSS, col.LOSS_AFTER: run_folder.EVAL_LOSS_AFTER_EVENT}
        if len(scalars.of(run_folder.EVAL_LOSS_BEFORE_EVENT).steps):
            sides[col.LOSS_BEFORE] = run_folder.EVAL_LOSS_BEFORE_EVENT
        evals = {side: scalars.at(tag, step) for side, tag in sides.items()}
        row: dict[str, object] = {side: NAN if loss is None else loss for side, loss in evals.items()}
        row |= {col.WINDOW: self.context.window, col.REFERENCE: twin.name if twin else "trend"}
        row |= {col.IS_RECOVERED: None, col.LR_PHASE: None, col.PLACEBOS: 0}
        if response is None:
            return {**dict.fromkeys(COLUMNS, NAN), **row}
        row |= {name: getattr(response, name) for name in (col.SPIKE, col.EXCESS_AREA, col.LATE_EXCESS, col.NOISE)}
        row |= {col.IS_RECOVERED: response.recovery is not None}
        row |= {col.RECOVERY_STEPS: self.context.steps_left(step) if response.recovery is None else response.recovery}
        return row | self._beside_placebos(step)

    def _beside_placebos(self, step: int) -> dict[str, object]:
        """Return z and p-values of spike and area, all relative to the trend and over the same number of steps."""
        steps_left = self.context.steps_left(step)
        reaches = {int(steps_left * SHRINK**power) for power in range(steps_left)} | {FEWEST}
        fitting = sorted((reach for reach in reaches if FEWEST <= reach <= steps_left), reverse=True)
        tried = [reach for reach in fitting if self._enough(self.context.run.path, np.array([step]), reach)[0]]
        if not (tried := [reach for reach in tried if self.context.without_events(step, reach)]):
            return dict.fromkeys((col.PLACEBO_WINDOW, col.SPIKE_Z, col.SPIKE_P, col.EXCESS_AREA_P, col.MIN_P), NAN)
        enough = min(placebo.ENOUGH, self.most)
        reach, steps = placebo.longest(tried, lambda reach: self._placebos(step, reach), enough)
        sources = self.sources(step, reach)
        spike, area = self._of(self.context.run.path, step, reach)
        others = np.array([self._of(sources[at], at, reach) for at in steps]).reshape(-1, 2)
        row: dict[str, object] = {col.PLACEBO_WINDOW: reach, col.LR_PHASE: self._phase(step, reach)}
        row |= {col.SPIKE_Z: placebo.robust_z(spike, others[:, 0]), col.SPIKE_P: placebo.p_value(spike, others[:, 0])}
        row |= {col.EXCESS_AREA_P: placebo.p_value(area, others[:, 1])}
        return row | {col.PLACEBOS: len(steps), col.MIN_P: placebo.min_p(len(steps))}

    def _of(self, path: Path, step: int, reach: int) -> tuple[float, float]:
        """Return spike and area relative to the trend."""
        response = response_at(*self.logged[path], step, reach)
        return (NAN, NAN) if response is None else (response.spike, response.excess_area)

    def _phase(self, step: int, reach: int) -> str | None:
        return self.context.mover.rates.phase(step - reach, step + reach, event=step)

    def _placebos(self, step: int, reach: int) -> list[int]:
        return placebo.around(step, reach, list(self.sources(step, reach)), self.most)

    def sources(self, step: int, reach: int) -> dict[int, Path]:
        """Return the candidate placebo steps, each with the folder of the run that has it: this run or a twin."""
        sources: dict[int, Path] = {}
        if (phase := self._phase(step, reach)) is None:
            return sources
        for path, mover in self.context.movers.items():
            run = mover.run
            first, end = 0 if run is self.context.run else run.checkpoints[0].step, run.checkpoints[-1].step
            there = np.arange(max(first + reach, step // placebo.FACTOR), min(end, placebo.FACTOR * step) + 1)
            there = there[self._enough(path, there, reach)]
            for at in placebo.without_events(there, [event.step for event in run.lineage.events], reach, end):
                if at not in sources and mover.rates.phase(at - reach, at + reach) == phase:
                    sources[at] = path
        return sources

    def _enough(self, path: Path, steps: np.ndarray, reach: int) -> np.ndarray:
        """Return for each step whether enough losses were logged on both sides of it."""
        logged = self.logged[path][0]
        low, middle, high = (np.searchsorted(logged, steps + far, side="right") for far in (-reach, 0, reach))
        return (middle - low >= FEWEST) & (high - middle >= SMOOTH)

    @cached_property
    def logged(self) -> dict[Path, tuple[np.ndarray, np.ndarray]]:
        """Run folder → steps and training losses that were logged there, steps with swapped layers left out."""
        return {path: _logged(mover.run) for path, mover in self.context.movers.items()}


def _logged(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and finite training losses, without steps at which two layers were swapped."""
    logged, swapped = run.scalars.of(run_folder.LOSS), run.scalars.of(run_folder.SWAPPED)
    there = np.isfinite(logged.values) & (logged.steps > 0)
    there &= ~np.isin(logged.steps, swapped.steps[swapped.values > 0])
    return logged.steps[there], logged.values[there].astype(np.float64)

"""The loss around growth events, beside that around steps without any: rows for `pli_analysis.metrics.disturbance`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import placebo
from pli_analysis.metrics.aftermath import Aftermath, aftermath
from pli_train import run_folder

if TYPE_CHECKING:
    from pli_analysis.metrics.scene import Scene
    from pli_analysis.run import Run

COLUMNS = ["loss_before", "loss_after", "window", "against", "spike", "recovery", "recovered", "area", "late", "noise"]
COLUMNS += ["spike_z", "spike_p", "area_p", "placebos"]
NAN = float("nan")


@dataclass(frozen=True)
class Losses:
    """The losses of a scene, held against a twin or a trend, and against placebo steps (`most` of them)."""

    scene: Scene
    most: int

    def after(self, step: int) -> Aftermath | None:
        """The loss behind a step, beside the twin's if there is one; None where too little was logged."""
        twin = self.scene.twin(step)
        theirs = _logged(twin) if twin is not None else None
        return aftermath(*self._own, step, self.scene.room(step), theirs)

    def row(self, step: int, found: Aftermath | None) -> dict[str, object]:
        """What `COLUMNS` name."""
        scalars, twin = self.scene.run.scalars, self.scene.twin(step)
        sides = {"loss_before": run_folder.EVAL_LOSS, "loss_after": run_folder.EVAL_LOSS_AFTER_EVENT}
        evals = {side: scalars.at(tag, step) for side, tag in sides.items()}
        row: dict[str, object] = {side: NAN if loss is None else loss for side, loss in evals.items()}
        row |= {"window": self.scene.window}
        row |= {"against": twin.name if twin else "trend", "recovered": None, "placebos": 0}
        if found is None:
            return {**dict.fromkeys(COLUMNS, NAN), **row}
        row |= {name: getattr(found, name) for name in ("spike", "area", "late", "noise")}
        row |= {"recovered": found.recovery is not None}
        row |= {"recovery": self.scene.room(step) if found.recovery is None else found.recovery}
        by_trend = found if twin is None else aftermath(*self._own, step, self.scene.room(step))
        return row | self._beside_placebos(step, by_trend)

    def _beside_placebos(self, step: int, own: Aftermath | None) -> dict[str, object]:
        """How unusual spike and area are: all by the trend, which placebos have too."""
        far = self.scene.window
        others = np.array([(f.spike, f.area) for at, f in self._placebos if at is None or abs(at - step) >= far])
        if own is None or not len(others):
            return {**dict.fromkeys(("spike_z", "spike_p", "area_p"), NAN), "placebos": 0}
        row: dict[str, object] = {"placebos": len(others)}
        spikes, areas = others.T
        row |= {"spike_z": placebo.robust_z(own.spike, spikes), "spike_p": placebo.p_value(own.spike, spikes)}
        return row | {"area_p": placebo.p_value(own.area, areas)}

    @cached_property
    def _placebos(self) -> list[tuple[int | None, Aftermath]]:
        """Losses behind steps without an event near, of the run (with the step) and of its twins (without)."""
        window, found = self.scene.window, list[tuple[int | None, Aftermath]]()
        for run in (self.scene.run, *self.scene.twins):
            mine, logged = run is self.scene.run, _logged(run)
            first, end = 0 if mine else run.checkpoints[0].step + window, run.checkpoints[-1].step
            events = [event.step for event in run.lineage.events]
            quiet = placebo.quiet(range(first, end + 1), events, window, window, end)
            for step in placebo.some(quiet, self.most):
                if (after := aftermath(*logged, step, window)) is not None:
                    found.append((step if mine else None, after))
        return found

    @cached_property
    def _own(self) -> tuple[np.ndarray, np.ndarray]:
        return _logged(self.scene.run)


def _logged(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Steps and training losses, those that are numbers."""
    logged = run.scalars.of(run_folder.LOSS)
    there = np.isfinite(logged.values) & (logged.steps > 0)
    return logged.steps[there], logged.values[there].astype(np.float64)

"""The checkpoints, layers and twins around a growth event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics.disturbance import placebo
from pli_analysis.metrics.disturbance.layer_speeds import LayerSpeeds
from pli_analysis.metrics.lineage import by_step
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run

LONGEST = 200
"""Maximum steps of a default window."""


@dataclass(frozen=True)
class EventContext:
    """A run, the twins it is compared with, and the `requested` window around events (None for the default)."""

    run: Run
    twins: tuple[Run, ...] = ()
    requested: int | None = None

    @cached_property
    def mover(self) -> LayerSpeeds:
        """The update rates of the run's layers."""
        return LayerSpeeds(self.run)

    @cached_property
    def movers(self) -> dict[Path, LayerSpeeds]:
        """The update rates of the layers of the run and of its twins, by run folder; the run first."""
        return {self.run.path: self.mover} | {twin.path: LayerSpeeds(twin) for twin in self.twins}

    def twin_mover(self, step: int) -> LayerSpeeds | None:
        """Return the update rates of the twin forked at a step, or None without such a twin."""
        twin = self.twin(step)
        return self.movers[twin.path] if twin else None

    @cached_property
    def events(self) -> list[int]:
        """The steps with growth events."""
        return list(by_step(self.run.lineage))

    @cached_property
    def end(self) -> int:
        """The step of the last checkpoint."""
        return self.run.checkpoints[-1].step

    @cached_property
    def window(self) -> int:
        """Steps to use on each side: half of the shortest interval without events, or a twentieth of the run."""
        if self.requested is not None:
            return self.requested
        gaps = [int(gap) for gap in np.diff([0, *self.events, self.end]) if gap > 0]
        return max(min(LONGEST, min(gaps) // 2 if self.events and gaps else self.end // 20), 1)

    def steps_left(self, step: int) -> int:
        """Return the window, shortened to end at the next event."""
        return min([self.window, *(event - step for event in self.events if event > step)])

    def without_events(self, step: int, reach: int) -> bool:
        """Return whether neither another event nor an end of the run lies within `reach` steps of a step."""
        others = [event for event in self.events if event != step]
        return bool(placebo.without_events([step], others, reach, self.end))

    def after(self, step: int) -> Checkpoint:
        """Return the checkpoint right after a step's events. Raises BadInput if there is none."""
        if step not in self.mover.starts:
            steps = ", ".join(map(str, list(self.mover.starts)[:12]))
            raise BadInput(f"{self.run.path}: has no checkpoint of step {step}; there are checkpoints of steps {steps}")
        return self.mover.starts[step]

    def before(self, step: int) -> Checkpoint | None:
        """Return the checkpoint right before a step's events, or None if there is none."""
        checkpoint = self.mover.ends.get(step)
        return checkpoint if checkpoint is not None and not checkpoint.name.after else None

    def touched(self, step: int) -> list[int]:
        """Return the indices, after a step's events, of the layers that the events added or changed."""
        stack = self.run.lineage.stack_at(step)
        layers = [event.facts.get("layer") for event in self.run.lineage.events if event.step == step]
        return sorted({stack.index(id) for ids in layers for id in str(ids or "").split() if id in stack})

    def twin(self, step: int) -> Run | None:
        """Return the twin forked at a step, if any: it has not grown since, and has the run's learning rates."""
        return next((twin for twin, alike in self._forks.get(step, ()) if alike), None)

    @property
    def unlike(self) -> list[str]:
        """One line for each fork that is not used as a twin, because its learning rates differ from the run's."""
        return [
            f"{twin.name} had other learning rates than {self.run.name} after step {step}: it is not used as a twin"
            for step in self.events
            for twin, alike in self._forks.get(step, ())
            if not alike
        ]

    @cached_property
    def _forks(self) -> dict[int, list[tuple[Run, bool]]]:
        """Step → the forks made there that did not grow since, and whether their learning rates equal the run's."""
        forks: dict[int, list[tuple[Run, bool]]] = {}
        for twin in self.twins:
            step = twin.checkpoints[0].step
            if all(event.step < step for event in twin.lineage.events):
                forks.setdefault(step, []).append((twin, self._same_rates(twin, step)))
        return forks

    def _same_rates(self, twin: Run, step: int) -> bool:
        """Return whether the learning rates of both are equal within the window."""
        mine, theirs = self.mover.rates, self.movers[twin.path].rates
        near = range(step, min(step + self.window, self.end))
        ours, others = ([rates.at(at) for at in near] for rates in (mine, theirs))
        return np.allclose(ours, others, rtol=1e-6, atol=0, equal_nan=True)


def distance(index: int, touched: Sequence[int]) -> int | None:
    """Return the distance from the nearest of some indices: positive above it, negative below it; None without any."""
    return min((index - position for position in touched), key=abs, default=None)


def twins_beside(run: Run) -> list[Run]:
    """Return the runs in the same folder that were forked from a run, sorted by name; unreadable runs are skipped."""
    from pli_analysis.runs.opening import open_run

    twins = []
    for path in sorted(run.path.resolve().parent.glob(f"*/{run_folder.RUN}")):
        try:
            other = open_run(path.parent)
            if path.parent != run.path.resolve() and _is_parent(run.path, other.parent) and other.checkpoints:
                twins.append(other)
        except BadInput:
            continue
    return twins


def _is_parent(path: Path, parent: dict[str, object] | None) -> bool:
    # The folder of all runs may have been moved since the fork: then only the last name of the parent's path is valid.
    recorded = str((parent or {}).get("path", ""))
    return bool(recorded) and (recorded == str(path.resolve()) or recorded.rpartition("/")[2] == path.resolve().name)

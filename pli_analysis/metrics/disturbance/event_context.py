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
"""Steps of a window at most, unless asked for more."""


@dataclass(frozen=True)
class EventContext:
    """A run, the twins it may be held against, and how far to look around a step (`asked`, None for a default)."""

    run: Run
    twins: tuple[Run, ...] = ()
    asked: int | None = None

    @cached_property
    def mover(self) -> LayerSpeeds:
        """The run's layers between checkpoints."""
        return LayerSpeeds(self.run)

    @cached_property
    def movers(self) -> dict[Path, LayerSpeeds]:
        """The layers of the run and of its twins, by their folders; the run first."""
        return {self.run.path: self.mover} | {twin.path: LayerSpeeds(twin) for twin in self.twins}

    def twin_mover(self, step: int) -> LayerSpeeds | None:
        """The layers of the twin of a step, if there is one."""
        twin = self.twin(step)
        return self.movers[twin.path] if twin else None

    @cached_property
    def events(self) -> list[int]:
        """The steps at which it grew."""
        return list(by_step(self.run.lineage))

    @cached_property
    def end(self) -> int:
        """The last step that has a checkpoint."""
        return self.run.checkpoints[-1].step

    @cached_property
    def window(self) -> int:
        """Steps to look at on each side: half of the shortest stretch without events, or a twentieth of the run."""
        if self.asked is not None:
            return self.asked
        gaps = [int(gap) for gap in np.diff([0, *self.events, self.end]) if gap > 0]
        return max(min(LONGEST, min(gaps) // 2 if self.events and gaps else self.end // 20), 1)

    def steps_left(self, step: int) -> int:
        """The window, or what is left of it until the next event."""
        return min([self.window, *(event - step for event in self.events if event > step)])

    def without_events(self, step: int, reach: int) -> bool:
        """Whether no other step's events lie within `reach` steps of a step, nor an end of the run."""
        others = [event for event in self.events if event != step]
        return bool(placebo.without_events([step], others, reach, self.end))

    def after(self, step: int) -> Checkpoint:
        """The state right after a step's events. Raises BadInput when no checkpoint has it."""
        if step not in self.mover.starts:
            message = ", ".join(map(str, list(self.mover.starts)[:12]))
            raise BadInput(f"{self.run.path}: has no checkpoint of step {step}; there are those of {message}")
        return self.mover.starts[step]

    def before(self, step: int) -> Checkpoint | None:
        """The state right before a step's events; None where no checkpoint has it."""
        found = self.mover.ends.get(step)
        return found if found is not None and not found.name.after else None

    def touched(self, step: int) -> list[int]:
        """The places, after a step's events, of the layers that they brought or changed."""
        stack = self.run.lineage.stack_at(step)
        facts = [event.facts.get("layer") for event in self.run.lineage.events if event.step == step]
        return sorted({stack.index(id) for message in facts for id in str(message or "").split() if id in stack})

    def twin(self, step: int) -> Run | None:
        """The twin that was forked at a step, did not grow there or later, and learnt at the run's rates since."""
        return next((twin for twin, alike in self._forks.get(step, ()) if alike), None)

    @property
    def unlike(self) -> list[str]:
        """A line for each twin of an event that is none, because it learnt at other rates."""
        return [
            f"{twin.name} learnt at other rates than {self.run.name} after step {step}: it is not held against it"
            for step in self.events
            for twin, alike in self._forks.get(step, ())
            if not alike
        ]

    @cached_property
    def _forks(self) -> dict[int, list[tuple[Run, bool]]]:
        """Step → the forks of it that stopped growing there, and whether they learnt at the run's rates since."""
        found: dict[int, list[tuple[Run, bool]]] = {}
        for twin in self.twins:
            step = twin.checkpoints[0].step
            if all(event.step < step for event in twin.lineage.events):
                found.setdefault(step, []).append((twin, self._same_rates(twin, step)))
        return found

    def _same_rates(self, twin: Run, step: int) -> bool:
        """Whether learning rates are equal within the window."""
        mine, theirs = self.mover.rates, self.movers[twin.path].rates
        near = range(step, min(step + self.window, self.end))
        ours, others = ([rates.at(at) for at in near] for rates in (mine, theirs))
        return np.allclose(ours, others, rtol=1e-6, atol=0, equal_nan=True)


def distance(index: int, touched: Sequence[int]) -> int | None:
    """Places from the nearest touched one: above it positive, below it negative."""
    return min((index - position for position in touched), key=abs, default=None)


def twins_beside(run: Run) -> list[Run]:
    """The runs in the same folder that were forked from a run, in order of their names; broken ones are passed over."""
    from pli_analysis.runs.opening import open_run

    found = []
    for path in sorted(run.path.resolve().parent.glob(f"*/{run_folder.RUN}")):
        try:
            other = open_run(path.parent)
            if path.parent != run.path.resolve() and _is_parent(run.path, other.parent) and other.checkpoints:
                found.append(other)
        except BadInput:
            continue
    return found


def _is_parent(path: Path, parent: dict[str, object] | None) -> bool:
    # A runs folder may have been moved as a whole since: then only the name is left of where the parent was.
    message = str((parent or {}).get("path", ""))
    return bool(message) and (message == str(path.resolve()) or message.rpartition("/")[2] == path.resolve().name)

"""Relative update rate of layers before and after a step.

A layer's relative update rate between two steps is ‖θ(end) − θ(start)‖ ÷ (‖θ(end)‖ · Σ learning rates). It depends on
the number of steps between them (noise cancels over longer intervals), so only intervals of equal length are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pli_analysis.metrics.drift.rates import Rates, rates_of
from pli_analysis.runs.checkpoint import Checkpoint
from pli_analysis.runs.run import Run
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.content_hash import key_of
from pli_analysis.weights.moments import Squares
from pli_train.core import cache
from pli_train.core.errors import BadInput

KEPT = "movement-1/"
"""Cache folder of displacements. Increase the number when their values change."""


@dataclass
class LayerSpeeds:
    """Update rates of a run's layers between pairs of its checkpoints.

    Attributes:
        run: the run.
        displacements: (start, end) → layer id → (‖θ(end) − θ(start)‖, ‖θ(end)‖) of the pairs computed so far.
    """

    run: Run
    displacements: dict[tuple[str, str], dict[str, tuple[float, float]]] = field(default_factory=dict)

    @cached_property
    def ends(self) -> dict[int, Checkpoint]:
        """Step → the checkpoint before the events of that step, at which an interval may end."""
        before = [c for c in reversed(self.run.checkpoints) if not c.name.after or c.step not in self._grown]
        return {checkpoint.step: checkpoint for checkpoint in before}

    @cached_property
    def starts(self) -> dict[int, Checkpoint]:
        """Step → the checkpoint after the events of that step, at which an interval may start."""
        return {step: c for step, c in self.run.states.items() if c.name.after or step not in self._grown}

    @cached_property
    def _grown(self) -> set[int]:
        """Steps with events. Checkpoints of other libraries may exist on one side of an event only."""
        return {event.step for event in self.run.lineage.events}

    @cached_property
    def rates(self) -> Rates:
        """The run's learning rates."""
        return rates_of(self.run)

    def spans(self, step: int, stretch: int) -> bool:
        """Return whether there are checkpoints at a step and `stretch` steps before and after it."""
        return step in self.starts and step - stretch in self.starts and step + stretch in self.ends

    def speeds(self, start: int, end: int) -> dict[str, float]:
        """Return by layer id the relative update rate between two steps without an event between them.

        It is NaN where no learning rate is known.

        Raises:
            BadInput: if a checkpoint cannot be read.
        """
        displacements = self._displacement(self.starts[start], self.ends[end])
        speeds = {}
        for id, (displacement, size) in displacements.items():
            scale = size * self.rates.between(id, start, end)
            speeds[id] = displacement / scale if scale > 0 else float("nan")
        return speeds

    def _displacement(self, first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]]:
        pair = str(first.name), str(last.name)
        if pair not in self.displacements:
            self.displacements[pair] = _kept(first, last) or _measured(first, last)
        return self.displacements[pair]


def log_ratios(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Return log(after ÷ before) of the keys that both have; NaN where a value is not above zero."""
    return {
        id: float(np.log(value / before[id])) if value > 0 and before[id] > 0 else float("nan")
        for id, value in after.items()
        if id in before
    }


def _measured(first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]]:
    """Return displacement and norm of each layer. Heads and units that only pad a layer are zero throughout."""
    displacements, squares = {}, Squares(BufferPool())
    for id in last.lineage.shared(first.lineage):
        moved = size = 0.0
        olds = dict(first.names_of_layers[id])
        for name, now in last.layer(id):
            if name not in olds and last.known is not None:
                continue  # a missing tensor of another library's checkpoint was reported when the run was opened
            if name not in olds:
                raise BadInput(f"{last.path}: layer {id} has a tensor {name} that is missing in {first.name}")
            ((_, old),) = first.tensors([olds[name]])
            if old.shape != now.shape:
                raise BadInput(
                    f"{last.path}: {name} of layer {id} has shape {now.shape}, and {old.shape} in {first.name}"
                )
            wide = np.result_type(now, old, np.float32)
            one, other = (np.ascontiguousarray(array, dtype=wide).reshape(1, -1) for array in (now, old))
            size_squared, moved_squared = squares(one, [other], (1, 1, one.size))[:, 0, 0]
            size, moved = size + size_squared, moved + moved_squared
        displacements[id] = float(moved**0.5), float(size**0.5)
    _keep(first, last, displacements)
    return displacements


def _kept(first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]] | None:
    key = key_of(first, last)
    shared = last.lineage.shared(first.lineage)
    rows = cache.get_array(KEPT + key, (len(shared), 2)) if key else None
    if rows is None:
        return None
    return {id: (moved_by, size) for id, (moved_by, size) in zip(shared, rows.tolist(), strict=True)}


def _keep(first: Checkpoint, last: Checkpoint, displacements: dict[str, tuple[float, float]]) -> None:
    if (key := key_of(first, last)) is not None:
        cache.put_array(KEPT + key, np.array(list(displacements.values())))

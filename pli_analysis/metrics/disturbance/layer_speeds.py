"""Speed of layers before and after a step.

A layer's speed over a stretch is ‖θ(end) − θ(start)‖ ÷ (‖θ(end)‖ · Σ learning rates). It depends on how long the
stretch is (noise cancels over longer ones), so only stretches of one length are compared.
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
"""Where displacements are kept; the number is to be raised when they change."""


@dataclass
class LayerSpeeds:
    """A run whose layers are watched between pairs of its checkpoints.

    Attributes:
        run: of one's own.
        displacements: (start, end) → layer id → (‖θ(end) − θ(start)‖, ‖θ(end)‖), as far as they were asked for.
    """

    run: Run
    displacements: dict[tuple[str, str], dict[str, tuple[float, float]]] = field(default_factory=dict)

    @cached_property
    def ends(self) -> dict[int, Checkpoint]:
        """Step → the state in which a stretch that leads up to it ends: before the events of that step."""
        found = [c for c in reversed(self.run.checkpoints) if not c.name.after or c.step not in self._grown]
        return {checkpoint.step: checkpoint for checkpoint in found}

    @cached_property
    def starts(self) -> dict[int, Checkpoint]:
        """Step → the state in which a stretch begins there: after its events."""
        return {step: c for step, c in self.run.states.items() if c.name.after or step not in self._grown}

    @cached_property
    def _grown(self) -> set[int]:
        """Steps with events: others' checkpoints may have one side of them alone."""
        return {event.step for event in self.run.lineage.events}

    @cached_property
    def rates(self) -> Rates:
        """Its learning rates."""
        return rates_of(self.run)

    def spans(self, step: int, stretch: int) -> bool:
        """Whether there are checkpoints at a step, and at both ends of stretches of a length before and after it."""
        return step in self.starts and step - stretch in self.starts and step + stretch in self.ends

    def speeds(self, start: int, end: int) -> dict[str, float]:
        """Layer id → its speed between two steps without an event between them. NaN where no rate is known.

        Raises:
            BadInput: when a checkpoint cannot be read.
        """
        moved = self._displacement(self.starts[start], self.ends[end])
        found = {}
        for id, (moved_by, size) in moved.items():
            scale = size * self.rates.between(id, start, end)
            found[id] = moved_by / scale if scale > 0 else float("nan")
        return found

    def _displacement(self, first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]]:
        pair = str(first.name), str(last.name)
        if pair not in self.displacements:
            self.displacements[pair] = _kept(first, last) or _measured(first, last)
        return self.displacements[pair]


def log_ratios(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """log(after ÷ before) of what both have, NaN where one is not above zero."""
    return {
        id: float(np.log(value / before[id])) if value > 0 and before[id] > 0 else float("nan")
        for id, value in after.items()
        if id in before
    }


def _measured(first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]]:
    """Displacement and size of each layer. Heads and units that only pad a layer stay what they are, zero."""
    found, squares = {}, Squares(BufferPool())
    for id in last.lineage.shared(first.lineage):
        moved = size = 0.0
        olds = dict(first.names_of_layers[id])
        for name, now in last.layer(id):
            if name not in olds and last.known is not None:
                continue  # a line was said of what others' checkpoints lack
            if name not in olds:
                raise BadInput(f"{last.path}: layer {id} has a tensor {name} that {first.name} has not")
            ((_, old),) = first.tensors([olds[name]])
            if old.shape != now.shape:
                raise BadInput(f"{last.path}: layer {id}'s {name} has another shape than in {first.name}")
            wide = np.result_type(now, old, np.float32)
            one, other = (np.ascontiguousarray(array, dtype=wide).reshape(1, -1) for array in (now, old))
            size_squared, moved_squared = squares(one, [other], (1, 1, one.size))[:, 0, 0]
            size, moved = size + size_squared, moved + moved_squared
        found[id] = float(moved**0.5), float(size**0.5)
    _keep(first, last, found)
    return found


def _kept(first: Checkpoint, last: Checkpoint) -> dict[str, tuple[float, float]] | None:
    key = key_of(first, last)
    shared = last.lineage.shared(first.lineage)
    found = cache.get_array(KEPT + key, (len(shared), 2)) if key else None
    if found is None:
        return None
    return {id: (moved_by, size) for id, (moved_by, size) in zip(shared, found.tolist(), strict=True)}


def _keep(first: Checkpoint, last: Checkpoint, found: dict[str, tuple[float, float]]) -> None:
    if (key := key_of(first, last)) is not None:
        cache.put_array(KEPT + key, np.array(list(found.values())))

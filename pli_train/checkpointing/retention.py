"""Decide which checkpoints a run writes, which it keeps, and which keep the optimizer state.

The decision depends only on the names up to the newest, so a resumed run ends with the same checkpoints as an
uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pli_train.core.run_format.run_folder import CheckpointName


@dataclass(frozen=True)
class Retention:
    """Retention policy of the section `[checkpoint]`.

    Attributes:
        every: steps between plain checkpoints, None for none.
        log_spaced: whether steps 1, 2, 4, 8, … have a checkpoint.
        full_last: number of newest checkpoints that keep the optimizer's state. Those right before growth, where twins
            are forked, always keep it; the others are for analysis.
        keep: number of newest plain checkpoints to keep; None for all.
        total_steps: step of the last checkpoint.
    """

    every: int | None
    log_spaced: bool
    full_last: int
    keep: int | None
    total_steps: int

    def due(self, step: int) -> bool:
        """Return whether a step has a plain or log-spaced checkpoint."""
        return self._plain(step) or self._early(step)

    def planned(self, events: Collection[int]) -> list[CheckpointName]:
        """Return all checkpoints of an uninterrupted run with growth at these steps."""
        steps = {0, self.total_steps, *events, *self._regular()}
        before = [CheckpointName(step, after=False) for step in set(events)]
        return sorted([*before, *(CheckpointName(step) for step in steps if step <= self.total_steps)])

    def kept(self, names: Collection[CheckpointName]) -> list[CheckpointName]:
        """Return the checkpoints to keep when the newest of them is written."""
        if not names or self.keep is None:
            return sorted(names)
        marked = self._marked(names)
        plain = sorted(name for name in names if name not in marked and self._plain(name.step))
        return sorted({*marked, *plain[-self.keep :], max(names)})

    def full(self, names: Collection[CheckpointName]) -> set[CheckpointName]:
        """Return the checkpoints that keep the optimizer's state.

        Those right before growth are among them, as twins that do not grow are forked there. The last checkpoint of an
        interrupted run is among them only while it is the newest.
        """
        marked = self._marked(names)
        scheduled = sorted(name for name in names if name in marked or self._plain(name.step))
        before_growth = [name for name in names if not name.after]
        return {*scheduled[-self.full_last :], *before_growth, *sorted(names)[-1:]}

    def _marked(self, names: Collection[CheckpointName]) -> set[CheckpointName]:
        """Return the first, the last, those around growth, and the log-spaced ones."""
        grown = {name.step for name in names if not name.after}
        # A twin's first checkpoint is at the step where it was forked, and not at step 0.
        ends = (min(names).step if names else 0, self.total_steps)
        return {name for name in names if name.step in grown or name.step in ends or self._early(name.step)}

    def _regular(self) -> Iterator[int]:
        if self.every:
            yield from range(self.every, self.total_steps + 1, self.every)
        if self.log_spaced:
            yield from (2**power for power in range(self.total_steps.bit_length()))

    def _plain(self, step: int) -> bool:
        return bool(self.every) and step % (self.every or 1) == 0

    def _early(self, step: int) -> bool:
        return self.log_spaced and step > 0 and step & (step - 1) == 0

"""Compute how much disk space a run's checkpoints will use."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_train.checkpointing.retention import Retention
    from pli_train.core.lineage import Lineage
    from pli_train.core.run_format.run_folder import CheckpointName
    from pli_train.growth.schedule import ScheduledEvent
    from pli_train.models.flops import Size

WEIGHT, MOMENTS = 4, 8
"""Bytes per parameter: its float32 value, and the two moments of AdamW."""


@dataclass(frozen=True)
class Stage:
    """Bytes of a checkpoint from a step on: of its weights in padded form, and of the optimizer's state.

    `step` is None when not known yet.
    """

    step: int | None
    weights: int
    moments: int


@dataclass(frozen=True)
class DiskUse:
    """Number and bytes of all checkpoints, and peak bytes while the last one is being written."""

    count: int
    bytes: int
    peak: int
    exact: bool

    def __str__(self) -> str:
        at_most = "" if self.exact else "at most "
        return f"checkpoints: {at_most}{self.count:,}, {self.bytes / 1e6:,.0f} MB on disk"

    def require(self, folder: Path) -> None:
        """Raise BadInput when the disk of `folder`, which need not exist yet, has not enough free space."""
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < self.peak:
            raise BadInput(
                f"{folder}: its checkpoints need {self.peak / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB free; "
                "free space, or keep fewer with checkpoint.every, checkpoint.keep or checkpoint.full_last"
            )


def stages(size: Size, start: Lineage, planned: Sequence[ScheduledEvent]) -> list[Stage]:
    """Return one stage for the start of a run and one for each of its events."""
    result = []
    for step, lineage in [(0, start), *((each.step, each.lineage) for each in planned)]:
        shapes = lineage.shapes()
        # In a checkpoint all layers have the config's heads and the widest FFN, see `models.padding`.
        widest = max((units for _, units in shapes if units), default=None)
        padded_form = size.parameters([(0, widest)] * len(shapes))
        result.append(Stage(step, WEIGHT * padded_form, MOMENTS * size.parameters(shapes)))
    return result


def use(retention: Retention, stages: Sequence[Stage], after: CheckpointName | None = None) -> DiskUse:
    """Return the disk use at the end of a run of all checkpoints later than `after`.

    An event whose step is not known is counted at its earliest possible step, so that the sum is an upper bound.
    """
    steps = [stage.step for stage in stages]
    events = {step for step in steps[1:] if step is not None}
    kept = retention.kept(retention.planned(events))
    full = retention.full(kept)
    sizes = [_bytes(name, stages, name in full) for name in kept if after is None or name > after]
    largest = max(stage.weights + stage.moments for stage in stages)
    waiting = 2 * steps.count(None)
    total = sum(sizes) + waiting * max(stage.weights for stage in stages)
    return DiskUse(len(sizes) + waiting, total, total + largest, waiting == 0)


def _bytes(name: CheckpointName, stages: Sequence[Stage], full: bool) -> int:
    stage = stages[0]
    for later in stages[1:]:
        if later.step is None or (later.step, False) < (name.step, name.after):
            stage = later
    return stage.weights + (stage.moments if full and name.step else 0)

"""Summarize growth events: the change of the loss at birth, and recoveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pli_analysis import columns as col

if TYPE_CHECKING:
    import pandas as pd


class Recoveries(NamedTuple):
    """Events after which the loss recovered.

    Attributes:
        recovered, events: number of events after which it did, and number of events with enough logged losses.
        steps: median number of steps until it recovered, over the events after which it did; NaN for none.
        window: number of steps observed after an event.
    """

    recovered: int
    events: int
    steps: float
    window: int


def changes_at_birth(events: pd.DataFrame) -> pd.Series:
    """Return the change of the loss by each event: as measured at its two checkpoints, else as training logged it.

    NaN for events at step 0, as there is nothing to disturb before training.

    Args:
        events: table of `pli_analysis.metrics.disturbance.disturbance`.
    """
    logged = events[col.LOSS_AFTER] - events[col.LOSS_BEFORE]
    return events[col.LOSS_CHANGE].astype(float).fillna(logged).where(events[col.STEP] > 0)


def recoveries(events: pd.DataFrame) -> Recoveries | None:
    """Count the events after which the loss recovered; None if too few losses were logged around all of them.

    Args:
        events: table of `pli_analysis.metrics.disturbance.disturbance`.
    """
    known = events[events[col.SPIKE].notna()]
    if not len(known):
        return None
    recovered = known[known[col.IS_RECOVERED].astype(bool)]
    steps = float(recovered[col.RECOVERY_STEPS].astype(float).median())
    return Recoveries(len(recovered), len(known), steps, int(known[col.WINDOW].iloc[0]))

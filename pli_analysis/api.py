"""Python API: open a run and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pli_analysis.runs.opening import open_run

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.runs.run import Run

__all__ = ["disturbance", "drift", "open_run"]


def drift(
    run: Run, of: str = "layer", *, gauge: bool = False, spectral: bool = False, threads: int = 1
) -> pd.DataFrame:
    """Measure the distance of each part from its birth weights.

    Arguments, columns and errors are those of `pli_analysis.metrics.drift.drift.drift`.
    """
    from pli_analysis.metrics.drift import drift as metric

    return metric.drift(run, of, gauge=gauge, spectral=spectral, threads=threads)


def disturbance(run: Run, window: int | None = None, twins: Sequence[Run] | None = None) -> Disturbance:
    """Measure the effect of each growth event: see `pli_analysis.metrics.disturbance.disturbance`.

    Args:
        run: a run that grew.
        window: steps to use on each side of an event; None for a default from the intervals between events.
        twins: forks of the run that did not grow; None for those in the same folder.

    Raises:
        BadInput: if a checkpoint cannot be read.
    """
    from pli_analysis.metrics.disturbance import disturbance as metric
    from pli_analysis.metrics.disturbance import event_context

    return metric.disturbance(run, event_context.twins_beside(run) if twins is None else twins, window)

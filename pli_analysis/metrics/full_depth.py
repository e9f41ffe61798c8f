"""FLOPs and seconds of a run that grew, as a share of what its final size would take from the start.

Columns, one row for each of `flops` and `seconds` that the run logged:
    axis        `flops` or `seconds`
    spent       what the run took
    full_size   what the same number of steps and tokens takes at the size after the last growth event
    share       spent ÷ full_size

The steps after the last event give the rates: FLOPs per token, which are exact, and mean seconds per step, without the
first logged interval, in which the model may compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.loss import AXES

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run
    from pli_analysis.scalars.reading import Scalars

COLUMNS = [col.AXIS, col.SPENT, col.FULL_SIZE, col.SHARE]


def full_depth(run: Run) -> pd.DataFrame:
    """Return the table; empty if the run did not grow, or logged fewer than three points after its last event."""
    import pandas as pd

    steps = [event.step for event in run.lineage.events]
    rows = []
    for axis, along in ((col.FLOPS, col.TOKENS), (col.SECONDS, col.STEP)) if steps else ():
        units, spent = _logged(run.scalars, axis, along)
        since = np.flatnonzero(_logged(run.scalars, axis, col.STEP)[0] >= steps[-1])
        if len(since) < 3:
            continue
        first = since[1]
        whole = float((spent[-1] - spent[first]) / (units[-1] - units[first]) * units[-1])
        rows.append((axis, float(spent[-1]), whole, float(spent[-1]) / whole if whole else np.nan))
    return pd.DataFrame(rows, columns=COLUMNS)


def _logged(scalars: Scalars, axis: str, along: str) -> tuple[np.ndarray, np.ndarray]:
    """Return, at the points where an axis was logged, the steps or tokens done and the value of the axis."""
    table = scalars.table(AXES[axis])
    steps, values = table[col.STEP].to_numpy(dtype=float), table[col.VALUE].to_numpy(dtype=float)
    if along == col.STEP:
        return steps, values
    tokens = scalars.table(AXES[along])
    return np.interp(steps, tokens[col.STEP], tokens[col.VALUE]) if len(tokens) else np.full(len(steps), np.nan), values

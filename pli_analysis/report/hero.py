"""The figure at the top of the page: loss above the stack, over FLOPs, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import hero as figures
from pli_analysis.figures.compare import AXES
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.report import compare
from pli_analysis.report.overview import together
from pli_analysis.report.parts import Figure
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.compare import Comparison
    from pli_analysis.runs.run import Run


def of_run(run: Run, finding: str) -> Figure | None:
    """Draw a run's losses above its stack, over FLOPs, or over steps if no FLOPs were logged; None without losses.

    Args:
        run: the run.
        finding: the finding about its loss, in a sentence.
    """
    table = loss_metric.loss(run.scalars)
    if not len(table):
        return None
    by = col.FLOPS if table[col.FLOPS].max() > 0 and table[col.FLOPS].notna().all() else col.STEP
    events = lineage_metric.by_step(run.lineage)
    births = loss_metric.births(run.scalars, list(events))[by]
    locations = _placed(run, by)
    drawing = figures.of_run(table, locations, by, births, [together(labels) for labels in events.values()])
    stacks = [" ".join(run.lineage.stack_at(step - 1)) for step in table[col.STEP]]  # before its events
    caption = f"{finding} Dotted lines mark growth; below, each layer is at its index."
    return Figure("hero", f"Loss and stack over {AXES[by]}", caption, drawing, table.assign(**{col.STACK: stacks}))


def _placed(run: Run, by: str) -> pd.DataFrame:
    """Return the location of each layer over time, with start and end on an axis."""
    locations = lineage_metric.locations(run.lineage, run.checkpoints[-1].step)
    ends = {col.START: col.START_STEP, col.END: col.END_STEP}
    return locations.assign(
        **{end: loss_metric.births(run.scalars, locations[steps].tolist())[by] for end, steps in ends.items()}
    )


def of_runs(found: Comparison, opened: Mapping[str, Run]) -> Figure:
    """Draw the losses of several runs above their numbers of layers, over the axis of a comparison.

    Args:
        found: the comparison.
        opened: name → run.
    """
    axes = dict.fromkeys([found.by, col.STEP])
    table = compare.drawn_points(found.curves, {axis: axis for axis in axes})
    depths = [
        len(opened[row.run].lineage.stack_at(row.step if row.is_event else row.step - 1)) for row in table.itertuples()
    ]
    order = table[col.RUN].map(list(opened).index)
    table = table.assign(**{col.DEPTH: depths}).iloc[np.lexsort((table[col.IS_EVENT], table[col.STEP], order))]
    unit = AXES[found.unit]
    drawing = figures.of_runs(table, found.by, found.tag or "loss", unit)
    depths_of = table.groupby(col.RUN)[col.DEPTH].nunique()
    grown = int((depths_of > 1).sum())
    runs = counted(len(depths_of), "run")
    caption = f"Loss of each run, and below its number of layers, which changed in {grown} of {runs}."
    return Figure("hero", f"Loss and number of layers over {unit}", caption, drawing, table)

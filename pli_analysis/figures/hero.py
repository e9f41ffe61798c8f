"""Loss above the stack, over the same FLOPs: the figure at the top of the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_analysis.figures import compare, lineage, loss
from pli_analysis.figures.palette import LEGEND, MOST_ON_NARROW, NEUTRAL

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEIGHT, NARROW_HEIGHT = 400, 420
LARGE = 12
"""Number of layers above which their ids are small."""


def of_run(
    table: pd.DataFrame, locations: pd.DataFrame, by: str, births: Iterable[float], born: list[str]
) -> go.Figure:
    """Draw the losses of a run above its stack.

    Args:
        table: result of `pli_analysis.metrics.loss`.
        locations: table of `pli_analysis.metrics.lineage`, with `start` and `end` of each interval on the axis.
        by: the axis, a key of `AXES`.
        births, born: positions of the growth events on the axis, and their labels.
    """
    import plotly.graph_objects as go

    size = 15 if locations[col.INDEX].max() < LARGE else 8
    layers = lineage.lines(locations, (col.START, col.END), loss.AXES[by], size)
    drawn = go.Figure([*loss.curves(table, [by]), *(line.update(yaxis="y2", showlegend=False) for line in layers)])
    if born:
        drawn.add_scatter(
            x=births,
            y=[table[col.LOSS].max()] * len(born),
            text=born,
            mode="text",
            textposition="top right",
            cliponaxis=False,
            hoverinfo="text+x",
            showlegend=False,
            meta={"narrow": {"text": loss.some(born, MOST_ON_NARROW)}},
        )
    for at in births:
        drawn.add_vline(at, line={"color": NEUTRAL, "dash": "dot", "width": 1})
    return _stacked(
        drawn, loss.AXES[by], "loss (nats per token)", {"title": "index"} | ({"dtick": 1} if size == 15 else {})
    )


def of_runs(table: pd.DataFrame, by: str, title: str, unit: str) -> go.Figure:
    """Draw the losses of several runs above their numbers of layers; the runs of a group share a color.

    Args:
        table: as for `compare.losses`, with `depth`, the number of layers from that row on.
        by: column of the axis.
        title: title of the loss.
        unit: unit of the axis.
    """
    drawn = compare.losses(table, [by], title)
    colors = {trace.name: trace.line for trace in drawn.data if trace.mode == "lines"}
    for run, mine in table.groupby(col.RUN, sort=False):
        line = {"color": colors[run].color, "dash": colors[run].dash, "shape": "hv", "width": 2}
        style = {"name": run, "mode": "lines", "line": line, "showlegend": False}
        drawn.add_scatter(x=mine[by], y=mine[col.DEPTH], yaxis="y2", **style)
    return _stacked(drawn, unit, title, {"title": "layers", "rangemode": "tozero"})


def _stacked(drawn: go.Figure, unit: str, title: str, below: dict[str, Any]) -> go.Figure:
    """Lay out the loss in the upper two thirds and the stack below, over one horizontal axis."""
    return drawn.update_layout(
        xaxis={"title": unit, "anchor": "y2"},
        yaxis={"title": title, "domain": [0.38, 1]},
        yaxis2={"domain": [0, 0.3], **below},
        legend=LEGEND,
        hovermode="closest",
        height=HEIGHT,
        meta={"narrow": {"height": NARROW_HEIGHT}},
    )

"""Losses of several runs, and speed-up over loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import views
from pli_analysis.figures.loss import AXES as AXES_OF_RUNS
from pli_analysis.figures.loss import MOST, extremes
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


AXES = AXES_OF_RUNS | {"epoch": "epochs"}
"""Axis → its title; logs of other programs may have epochs only."""


def losses(table: pd.DataFrame, axes: Sequence[str], title: str = "loss", envelope: str = "") -> go.Figure:
    """Draw the loss of each run, with growth events as triangles; the runs of a group share a color.

    Args:
        table: `run`, `group`, `is_event` (true for a growth event), the axes, `loss`; sorted by run and axis.
        axes: keys of `AXES`; the first one is drawn, and a page can switch to the others.
        title: title of the vertical axis.
        envelope: name of the group that is the envelope of others, if any; it is drawn as a neutral dotted line.
    """
    import plotly.graph_objects as go

    drawn, groups, by = go.Figure(), list(dict.fromkeys(table[col.GROUP])), axes[0]
    for (run, group), mine in table.groupby([col.RUN, col.GROUP], sort=False):
        line = {"color": NEUTRAL, "dash": "dot"} if group == envelope else numbered_line(groups.index(group))
        color = line["color"]
        curve = mine[~mine[col.IS_EVENT]]
        kept = curve.iloc[extremes(curve[col.LOSS].to_numpy(), MOST)]
        style = {"mode": "lines", "line": line | {"width": 2}, "meta": _along(kept, axes)}
        drawn.add_scatter(x=kept[by], y=kept[col.LOSS], name=str(run), **style)
        if mine[col.IS_EVENT].any():
            grown = mine[mine[col.IS_EVENT]]
            marker = {"symbol": "triangle-up", "size": 9, "color": color}
            style = {"mode": "markers", "marker": marker, "meta": _along(grown, axes)}
            drawn.add_scatter(x=grown[by], y=grown[col.LOSS], name=f"{run}, growth event", showlegend=False, **style)
    drawn.update_layout(xaxis_title=AXES[by], yaxis_title=title, legend=LEGEND, hovermode="closest")
    return drawn.update_layout(meta=views.axes({axis: AXES[axis] for axis in axes}))


def speed_up(table: pd.DataFrame, reference: str) -> go.Figure:
    """Draw the speed-up over the loss level, with the 95 % interval as a band; one view per axis.

    Args:
        table: results of `metrics.comparison.compare.speed_ups` on one axis or more, with the axis in column `axis`.
        reference: the group that the others are compared with.
    """
    import plotly.graph_objects as go

    drawn, axes = go.Figure(), list(dict.fromkeys(table[col.AXIS]))
    for number, (group, mine) in enumerate(table.groupby(col.GROUP, sort=False)):
        if group == reference or mine[col.SPEED_UP].isna().all():
            continue
        line, by_axis = numbered_line(number) | {"width": 2}, dict(list(mine.groupby(col.AXIS, sort=False)))
        bands = {axis: _band(rows) for axis, rows in by_axis.items()}
        if len(bands[axes[0]]["x"]):
            style = {"fill": "toself", "fillcolor": line["color"], "opacity": 0.2, "line": {"width": 0}}
            hidden = {"hoverinfo": "skip", "meta": {"views": bands}}
            drawn.add_scatter(**bands[axes[0]], name=f"{group}, 95 % interval", **style, **hidden)
        known = {axis: rows[rows[col.SPEED_UP].notna()] for axis, rows in by_axis.items()}
        curves = {
            axis: {"x": views.plain(r[col.LOSS_LEVEL]), "y": views.plain(r[col.SPEED_UP])} for axis, r in known.items()
        }
        style = {"mode": "lines+markers", "line": line, "meta": {"views": curves}}
        drawn.add_scatter(**curves[axes[0]], name=f"{group} ({_runs(mine)})", **style)
    drawn.add_hline(y=1, line={"color": NEUTRAL, "dash": "dot", "width": 1})
    drawn.update_xaxes(title="loss level to reach", autorange="reversed")
    by_view = {}
    for axis, rows in table[table[col.GROUP] != reference].groupby(col.AXIS, sort=False):
        title = {"text": f"speed-up in {AXES[str(axis)]} over {reference}"}
        by_view[axis] = {"name": AXES[str(axis)], "layout": {"yaxis": {"title": title, "range": _range(rows)}}}
    drawn.update_layout(legend=LEGEND, hovermode="closest", meta={"views": by_view})
    return drawn.update_layout(by_view[axes[0]]["layout"])


def _range(rows: pd.DataFrame) -> list[float]:
    """Return the range of the vertical axis: all curves, and as much of the bands as leaves the curves readable."""
    ups = np.append(rows[col.SPEED_UP].dropna(), 1.0)
    margin = max(np.ptp(ups), 0.25)
    low, high = np.nanmin([*rows[col.SPEED_UP_LOW], ups.min()]), np.nanmax([*rows[col.SPEED_UP_HIGH], ups.max()])
    return views.plain([max(low, ups.min() - margin) - margin / 10, min(high, ups.max() + margin) + margin / 10])


def _runs(rows: pd.DataFrame) -> str:
    """Describe the number of runs behind a curve."""
    runs = rows[col.RUNS].iloc[0]
    return "one run" if runs == 1 else f"{runs} runs"


def _band(rows: pd.DataFrame) -> dict[str, list[float]]:
    """Return the outline of an interval's band; empty where there is no interval."""
    band = rows[rows[col.SPEED_UP_LOW].notna()]
    x, y = (
        np.append(band[col.LOSS_LEVEL], band[col.LOSS_LEVEL][::-1]),
        np.append(band[col.SPEED_UP_HIGH], band[col.SPEED_UP_LOW][::-1]),
    )
    return {"x": views.plain(x), "y": views.plain(y)}


def _along(table: pd.DataFrame, axes: Sequence[str]) -> dict[str, Any]:
    return views.along({axis: table[axis] for axis in axes})

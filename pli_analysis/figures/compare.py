"""Losses of several runs in one figure, and how much sooner one comes to a loss than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.figures.loss import AXES, MOST, along, extremes
from pli_analysis.figures.palette import COLOURS, LEGEND, NEUTRAL

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def losses(table: pd.DataFrame, axes: Sequence[str]) -> go.Figure:
    """Each run's loss; growth events as triangles on its curve; groups of several runs share a colour.

    Args:
        table: `run`, `group`, `event` (whether growth happened there), the axes, `loss`; by run and axis.
        axes: of `step`, `tokens`, `flops` and `seconds`; drawn against the first, and a page can switch to the others.
    """
    import plotly.graph_objects as go

    drawn, groups, by = go.Figure(), list(dict.fromkeys(table["group"])), axes[0]
    for (run, group), mine in table.groupby(["run", "group"], sort=False):
        colour = COLOURS[groups.index(group) % len(COLOURS)]
        curve = mine[~mine["event"]]
        kept = curve.iloc[extremes(curve["loss"].to_numpy(), MOST)]
        style = {"mode": "lines", "line": {"color": colour, "width": 2}, "meta": along(kept, axes)}
        drawn.add_scatter(x=kept[by], y=kept["loss"], name=str(run), **style)
        if mine["event"].any():
            grown = mine[mine["event"]]
            marker = {"symbol": "triangle-up", "size": 9, "color": colour}
            style = {"mode": "markers", "marker": marker, "meta": along(grown, axes)}
            drawn.add_scatter(x=grown[by], y=grown["loss"], name=f"{run} grows", showlegend=False, **style)
    drawn.update_layout(xaxis_title=AXES[by], yaxis_title="loss", legend=LEGEND, hovermode="closest")
    return drawn.update_layout(meta={"axes": {axis: AXES[axis] for axis in axes}} if len(axes) > 1 else None)


def speed_up(table: pd.DataFrame, reference: str, by: str) -> go.Figure:
    """Speed-up against loss, with a bootstrap band where groups have several runs.

    Args:
        table: of `pli_analysis.metrics.compare.speed_ups`.
        reference: the group that the others are compared with.
        by: the axis that the speed-up is told on.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (group, mine) in enumerate(table.groupby("group", sort=False)):
        mine, colour = mine[mine["speed_up"].notna()], COLOURS[number % len(COLOURS)]
        if group == reference or not len(mine):
            continue
        band = mine[mine["low"].notna()]
        if len(band):
            x, y = np.append(band["level"], band["level"][::-1]), np.append(band["high"], band["low"][::-1])
            style = {"fill": "toself", "fillcolor": colour, "opacity": 0.2, "line": {"width": 0}}
            drawn.add_scatter(x=x, y=y, hoverinfo="skip", showlegend=False, name=f"{group}, 95 %", **style)
        line = {"color": colour, "width": 2}
        drawn.add_scatter(x=mine["level"], y=mine["speed_up"], mode="lines+markers", line=line, name=str(group))
    drawn.add_hline(y=1, line={"color": NEUTRAL, "dash": "dot", "width": 1})
    drawn.update_xaxes(title="loss", autorange="reversed")
    return drawn.update_layout(yaxis_title=f"{AXES[by]} of {reference} ÷ own", legend=LEGEND, hovermode="closest")

"""Inserted minus matched layers: one panel per measure, with all runs, their mean and its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.palette import COLORS, NEUTRAL
from pli_analysis.figures.panels import panels, suffix

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

HEIGHT = 230
"""Height of a panel with the gap below it, in pixels."""
JITTER = 0.25
"""Distance between the first and the last run of a row, in rows."""


def differences(
    table: pd.DataFrame, tests: pd.DataFrame, measures: Sequence[tuple[str, str]], references: Sequence[str]
) -> go.Figure:
    """Draw the difference of each run as a point, and the mean over runs with its interval below.

    Differences within the gray band are too small to matter.

    Args:
        table, tests: results of `contrasts` and `summary` of `pli_analysis.metrics.explain.explain`.
        measures: name and title of each panel.
        references: rows of a panel, top to bottom.
    """
    import plotly.graph_objects as go

    drawn, axes = go.Figure(), dict[str, Any]()
    for number, (measure, title) in enumerate(measures, 1):
        mine, tested = (rows[rows[col.MEASURE] == measure] for rows in (table, tests))
        marks = {"xaxis": f"x{suffix(number)}", "yaxis": f"y{suffix(number)}", "showlegend": False}
        rows = {name: -place for place, name in enumerate(references)}
        grouped = mine.groupby(col.REFERENCE)
        spread = grouped.cumcount() / (grouped[col.RUN].transform("size") - 1).clip(lower=1) - 0.5
        drawn.add_scatter(
            x=mine[col.DIFFERENCE],
            y=mine[col.REFERENCE].map(rows) + 0.2 + JITTER * spread,
            mode="markers",
            marker={"size": 6, "color": COLORS[0], "opacity": 0.5},
            text=mine[col.RUN],
            hovertemplate="%{text}: %{x:+.3f}<extra></extra>",
            **marks,
        )
        value = tested[col.DIFFERENCE]
        drawn.add_scatter(
            x=value,
            y=tested[col.REFERENCE].map(rows) - 0.2,
            error_x={
                "array": np.nan_to_num(tested[col.DIFFERENCE_HIGH] - value),
                "arrayminus": np.nan_to_num(value - tested[col.DIFFERENCE_LOW]),
                "thickness": 2,
                "width": 5,
            },
            mode="markers",
            marker={"size": 9, "symbol": "diamond", "color": COLORS[5]},
            hovertemplate="mean %{x:+.3f}<extra></extra>",
            **marks,
        )
        axes[f"xaxis{suffix(number)}"] = {"title": {"text": title, "standoff": 6}, "anchor": marks["yaxis"]}
        axes[f"yaxis{suffix(number)}"] = {
            "anchor": marks["xaxis"],
            "tickvals": list(rows.values()),
            "ticktext": list(rows),
            "range": [0.6 - len(rows), 0.6],
            "zeroline": False,
        }
        margin = float(tested[col.MARGIN].iloc[0])
        band = {"fillcolor": NEUTRAL, "opacity": 0.15, "line_width": 0, "layer": "below"}
        drawn.add_shape(
            type="rect", x0=-margin, x1=margin, y0=0, y1=1, xref=marks["xaxis"], **band, yref=f"{marks['yaxis']} domain"
        )
    wide, narrow = panels(len(measures), 2, HEIGHT), panels(len(measures), 1, HEIGHT)
    drawn.update_layout(wide | {name: own | wide[name] for name, own in axes.items()})
    return drawn.update_layout(meta={"narrow": narrow}, hovermode="closest", showlegend=False)

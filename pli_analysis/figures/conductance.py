"""Conductance of layers: contributions with intervals, and infidelity and sensitivity as points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.layer_axis import shade_inserted
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXIS = {"title": "layer, bottom to top", "type": "category"}
CHECKS = {col.RELATIVE_INFIDELITY: "relative infidelity", col.SENSITIVITY: "sensitivity"}
"""Column → name in the legend."""


def contributions(table: pd.DataFrame) -> go.Figure:
    """Draw the contribution of each layer with its 95 % interval, and that of the whole text as a line.

    Args:
        table: result of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    import plotly.graph_objects as go

    layers = table[table[col.PART_TYPE] == "layer"]
    total = table.loc[table[col.PART_TYPE] == "total", col.CONTRIBUTION].item()
    value = layers[col.CONTRIBUTION]
    ends = {"array": layers[col.CONTRIBUTION_HIGH] - value, "arrayminus": value - layers[col.CONTRIBUTION_LOW]}
    bars = go.Bar(
        x=layers[col.LAYER],
        y=value,
        error_y={**ends, "thickness": 1, "width": 3},
        marker_color=numbered_line(0)["color"],
        name="through the layer",
        customdata=layers[col.SHARE],
        hovertemplate="layer %{x}: %{y:+.3f} (%{customdata:.1%})<extra></extra>",
    )
    line = go.Scatter(
        x=layers[col.LAYER],
        y=[total] * len(layers),
        mode="lines+markers",
        line={"color": NEUTRAL, "dash": "dash"},
        name="total",
        hovertemplate="total: %{y:+.3f}<extra></extra>",
    )
    drawn = go.Figure([bars, line])
    shade_inserted(drawn, layers)
    return drawn.update_layout(xaxis=AXIS, yaxis_title="log-probability (nats)", legend=LEGEND)


def checks(table: pd.DataFrame) -> go.Figure:
    """Draw relative infidelity and sensitivity of each layer on a logarithmic scale.

    Args:
        table: result of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    import plotly.graph_objects as go

    layers = table[table[col.PART_TYPE] == "layer"]
    points = [
        go.Scatter(
            x=layers[col.LAYER],
            y=layers[column],
            mode="markers",
            marker={"size": 9, "symbol": symbol, "color": numbered_line(number)["color"]},
            name=name,
            hovertemplate=f"{name}, layer %{{x}}: %{{y:.3g}}<extra></extra>",
        )
        for number, ((column, name), symbol) in enumerate(zip(CHECKS.items(), ("circle", "diamond"), strict=True))
    ]
    drawn = go.Figure(points)
    shade_inserted(drawn, layers)
    return drawn.update_layout(
        xaxis=AXIS, yaxis={"title": "relative error or change", "type": "log", "dtick": 1}, legend=LEGEND
    )

"""Influence of training blocks on each layer: one point per block, with the range of their middle half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.layer_axis import shade_inserted
from pli_analysis.figures.markup import escaped
from pli_analysis.figures.palette import numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def by_layer(table: pd.DataFrame) -> go.Figure:
    """Draw the influence of all blocks over layers, from bottom to top; the text of a block appears at its point.

    Args:
        table: the rows of layers in the result of `pli_analysis.metrics.influence.influence`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure(
        go.Box(
            x=table[col.LAYER],
            y=table[col.INFLUENCE],
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"width": 1, "color": numbered_line(0)["color"]},
            marker={"size": 5, "opacity": 0.6},
            customdata=list(zip(table[col.BLOCK], table[col.EXCERPT].map(escaped), strict=True)),
            hovertemplate="layer %{x}, block %{customdata[0]}: %{y:+.2g}<br>%{customdata[1]}<extra></extra>",
            hoveron="points",
            showlegend=False,
        )
    )
    shade_inserted(drawn, table)
    return drawn.update_layout(
        xaxis={"title": "layer, bottom to top", "type": "category"},
        yaxis={"title": "influence on the held-out loss (nats)", "zeroline": True},
    )

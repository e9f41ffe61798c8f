"""Loss over the share of masked heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"importance": "lowest importance first", "loss_change": "smallest loss change first", "random": "random"}


def curves(table: pd.DataFrame, tolerance: float) -> go.Figure:
    """Draw one curve per order, and a line at the loss change that counts as small.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.pruning`.
        tolerance: loss change at the line, in nats.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (order, name) in enumerate(NAMES.items()):
        for draw, rows in table[table[col.ORDER] == order].groupby(col.DRAW):
            line = {"color": NEUTRAL, "width": 1} if order == "random" else {**numbered_line(number), "width": 2}
            drawn.add_trace(
                go.Scatter(
                    x=rows[col.SHARE_MASKED],
                    y=rows[col.LOSS_CHANGE],
                    mode="lines+markers",
                    marker={"size": 5},
                    line=line,
                    name=name,
                    showlegend=draw == 0,
                    legendgroup=order,
                    customdata=rows[col.HEADS_MASKED],
                    hovertemplate=f"%{{customdata}} heads, {name}: %{{y:+.3f}}<extra></extra>",
                )
            )
    drawn.add_hline(tolerance, line={"color": NEUTRAL, "dash": "dot", "width": 1})
    drawn.update_layout(
        xaxis={"title": "share of heads masked", "tickformat": ".0%"},
        yaxis_title="change of the loss (nats)",
        legend=LEGEND,
    )
    return drawn

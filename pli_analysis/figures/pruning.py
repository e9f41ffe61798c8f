"""Loss over the share of masked heads, and the share of heads that can be pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"importance": "lowest importance first", "loss_change": "smallest loss change first", "random": "random"}
ORIGINS = {"all": "all heads", "initial": "initial heads", "inserted": "inserted heads"}


def curves(table: pd.DataFrame, tolerance: float) -> go.Figure:
    """Draw one curve per order, and a line at the loss change that counts as small.

    Args:
        table: rows of one checkpoint and origin in a result of `pli_analysis.metrics.ablation.pruning.pruning`.
        tolerance: loss change at the line, in nats.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (order, name) in enumerate(NAMES.items()):
        for draw, rows in table[table[col.ORDER] == order].groupby(col.DRAW):
            drawn.add_trace(
                go.Scatter(
                    x=rows[col.SHARE_MASKED],
                    y=rows[col.LOSS_CHANGE],
                    mode="lines+markers",
                    marker={"size": 5},
                    line=_line(order, number),
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


def shares(table: pd.DataFrame) -> go.Figure:
    """Draw the prunable share by origin: bars for one checkpoint, else lines over steps, without the loss change.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.prunable`.
    """
    drawn = _over_steps(table) if table[col.CHECKPOINT].nunique() > 1 else _bars(table)
    drawn.update_yaxes(title="prunable share", range=[0, 1.05], tickformat=".0%")
    drawn.update_layout(legend=LEGEND)
    return drawn


def _bars(table: pd.DataFrame) -> go.Figure:
    """Draw a bar for each order in each origin."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (order, name) in enumerate(NAMES.items()):
        rows = table[table[col.ORDER] == order]
        drawn.add_bar(
            x=rows[col.ORIGIN],
            y=rows[col.PRUNABLE_SHARE],
            marker_color=_line(order, number)["color"],
            name=name,
            customdata=rows[col.HEADS],
            hovertemplate=f"{name}: %{{y:.0%}} of %{{customdata}} heads<extra></extra>",
        )
    drawn.update_xaxes(title="heads")
    return drawn


def _over_steps(table: pd.DataFrame) -> go.Figure:
    """Draw a line by importance, and a dotted one for random orders, for each origin."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (origin, heads) in enumerate(ORIGINS.items()):
        for order, dash in (("importance", "solid"), ("random", "dot")):
            rows = table[(table[col.ORIGIN] == origin) & (table[col.ORDER] == order)]
            if not len(rows):
                continue
            drawn.add_scatter(
                x=rows[col.STEP],
                y=rows[col.PRUNABLE_SHARE],
                mode="lines+markers",
                line={**numbered_line(number), "dash": dash},
                name=f"{heads}, {NAMES[order]}",
                customdata=rows[col.HEADS],
                hovertemplate=f"step %{{x}}, {NAMES[order]}: %{{y:.0%}} of %{{customdata}} {heads}<extra></extra>",
            )
    drawn.update_xaxes(title="step")
    return drawn


def _line(order: str, number: int) -> dict[str, object]:
    """Return the line of an order: thin and gray for random ones."""
    return {"color": NEUTRAL, "width": 1} if order == "random" else {**numbered_line(number), "width": 2}

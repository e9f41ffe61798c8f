"""Attention of heads: distance and entropy as heat maps, and the share of the attention to near and frequent tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.grid import grid
from pli_analysis.figures.layer_axis import by_head, shade_inserted
from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SERIES = {
    col.PREVIOUS: "previous token",
    col.SELF: "same token",
    col.NEXT: "next token",
    col.FIRST: "first token of the block",
    col.SPECIAL: "special tokens",
}
"""Column → name in the legend."""


def heads(table: pd.DataFrame, column: str, title: str) -> go.Figure:
    """Draw one square per head, from the bottom layer to the top.

    Args:
        table: rows of heads of `pli_analysis.metrics.attention.attention`.
        column: what the colors show.
        title: its title, with the unit.
    """
    ids, squares = by_head(table, column)
    titles = ("head", "layer, bottom to top", title)
    return grid(squares, ids, list(range(squares.shape[1])), titles, "head %{x} of layer %{y}: %{z:.3g}")


def masses(table: pd.DataFrame) -> go.Figure:
    """Draw the share of the attention to near, first and special tokens by layer, as means over heads.

    Inserted layers are shaded.

    Args:
        table: rows of heads of `pli_analysis.metrics.attention.attention`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    layers = table.groupby(col.LAYER, sort=False)
    for number, (column, name) in enumerate(SERIES.items()):
        means = layers[column].mean()
        if means.notna().any():
            marker = {"size": 7, "color": numbered_line(number)["color"]}
            drawn.add_scatter(x=means.index, y=means, name=name, mode="lines+markers", marker=marker)
    shade_inserted(drawn, table)
    share = {"title": "share of the attention", "tickformat": ".0%", "rangemode": "tozero"}
    return drawn.update_layout(xaxis={"title": "layer, bottom to top", "type": "category"}, yaxis=share, legend=LEGEND)

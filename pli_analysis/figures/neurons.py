"""FFN units by layer: agreement of copied units with their donors, and the share of tokens at which they are active."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.layer_axis import shade_inserted
from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AGREEMENT = {
    col.DONOR_CORRELATION: "correlation with the donor unit",
    col.CONTROL_CORRELATION: "correlation with another unit of its layer",
    col.DONOR_OVERLAP: "overlap of the top contexts (Jaccard)",
}
"""Measure → name in the legend."""


def agreement(table: pd.DataFrame) -> go.Figure:
    """Draw how much copied units agree with the units that they were copied from, over layers.

    Args:
        table: result of `pli_analysis.metrics.neurons.neurons.by_layer`.
    """
    shown = table[table[col.MEASURE].isin(AGREEMENT)]
    drawn = _by_measure(shown, AGREEMENT)
    drawn.add_hline(0, line_width=1, line_color=NEUTRAL)
    return drawn.update_layout(yaxis={"title": "agreement with the donor", "range": [-1.05, 1.05]})


def activity(table: pd.DataFrame) -> go.Figure:
    """Draw the share of tokens at which units are active, over layers. Inserted layers are shaded.

    Args:
        table: result of `pli_analysis.metrics.neurons.neurons.by_layer`.
    """
    shown = table[table[col.MEASURE] == col.ACTIVE_SHARE]
    drawn = _by_measure(shown, {col.ACTIVE_SHARE: "active at"})
    order = shown.assign(**{col.INDEX: range(len(shown))})  # not all layers are measured
    shade_inserted(drawn, order)
    share = {"title": "share of tokens", "tickformat": ".0%", "range": [-0.02, 1.02]}
    return drawn.update_layout(yaxis=share, showlegend=False)


def _by_measure(table: pd.DataFrame, names: Mapping[str, str]) -> go.Figure:
    """Draw a point for each layer and measure at the median, with a bar from the lower to the upper quartile."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (measure, name) in enumerate(names.items()):
        rows = table[table[col.MEASURE] == measure]
        high, low = rows[col.UPPER_QUARTILE] - rows[col.MEDIAN], rows[col.MEDIAN] - rows[col.LOWER_QUARTILE]
        drawn.add_scatter(
            x=rows[col.LAYER],
            y=rows[col.MEDIAN],
            error_y={"array": high, "arrayminus": low, "thickness": 1, "width": 3},
            mode="markers",
            marker={"size": 8, "color": numbered_line(number)["color"]},
            name=name,
            hovertemplate=f"layer %{{x}}, {name}: %{{y:.2f}}<extra></extra>",
        )
    axis = {"title": "layer, bottom to top", "type": "category"}
    return drawn.update_layout(xaxis=axis, legend=LEGEND, scattermode="group")

"""Loss of the predictions that lenses read from each layer, and where predictions are decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"logit": "logit lens", "tuned": "tuned lens"}


def losses(table: pd.DataFrame) -> go.Figure:
    """Draw the loss over layers, from bottom to top, with 95 % intervals: one curve per lens.

    Args:
        table: result of `pli_analysis.metrics.lens.lens`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (lens, name) in enumerate(NAMES.items()):
        rows = table[table[col.LENS] == lens]
        bars = {"array": rows[col.LOSS_HIGH] - rows[col.LOSS], "arrayminus": rows[col.LOSS] - rows[col.LOSS_LOW]}
        drawn.add_trace(
            go.Scatter(
                x=rows[col.LAYER],
                y=rows[col.LOSS],
                error_y={**bars, "thickness": 1, "width": 3},
                mode="lines+markers",
                line={**numbered_line(number), "width": 2},
                name=name,
                customdata=rows[col.AGE],
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}} (age %{{customdata:,}} steps)<extra></extra>",
            )
        )
    return _over_layers(drawn, "loss (nats per token)")


def depths(table: pd.DataFrame) -> go.Figure:
    """Draw the share of tokens whose prediction is decided at each layer: one bar per lens and layer.

    Args:
        table: result of `pli_analysis.metrics.lens.lens`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (lens, name) in enumerate(NAMES.items()):
        rows = table[table[col.LENS] == lens]
        drawn.add_trace(
            go.Bar(
                x=rows[col.LAYER],
                y=rows[col.DECIDED],
                marker_color=numbered_line(number)["color"],
                name=name,
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.1%}}<extra></extra>",
            )
        )
    drawn.update_layout(yaxis_tickformat=".0%")
    return _over_layers(drawn, "share of tokens decided")


def _over_layers(drawn: go.Figure, title: str) -> go.Figure:
    drawn.update_layout(xaxis={"title": "layer, bottom to top", "type": "category"}, yaxis_title=title, legend=LEGEND)
    return drawn

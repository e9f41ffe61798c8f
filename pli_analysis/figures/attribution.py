"""What parts add to the logits of the right tokens: layers and FFNs with intervals, heads as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.grid import grid
from pli_analysis.figures.layer_axis import by_head, shade_inserted
from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SERIES = {"whole layer": ("embedding", "layer", "bias"), "its FFN": ("ffn",)}
"""Name in the legend → part types."""
ADDS = "logit of the right token − mean logit"


def layers(table: pd.DataFrame) -> go.Figure:
    """Draw what the embedding, each layer, each FFN and the last biases add, with 95 % intervals, from bottom to top.

    Args:
        table: result of `pli_analysis.metrics.attribution.attribution`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (name, kinds) in enumerate(SERIES.items()):
        rows = table[table[col.PART_TYPE].isin(kinds)]
        value = rows[col.CONTRIBUTION]
        ends = {"array": rows[col.CONTRIBUTION_HIGH] - value, "arrayminus": value - rows[col.CONTRIBUTION_LOW]}
        drawn.add_trace(
            go.Bar(
                x=rows[col.PART],
                y=value,
                error_y={**ends, "thickness": 1, "width": 3},
                marker_color=numbered_line(number)["color"],
                name=name,
                customdata=rows[col.SHARE],
                hovertemplate=f"{name}, %{{x}}: %{{y:+.3f}} (%{{customdata:.1%}})<extra></extra>",
            )
        )
    shade_inserted(drawn, table, before=1)
    return drawn.update_layout(
        xaxis={"title": "layer, bottom to top", "type": "category"}, yaxis_title=ADDS, legend=LEGEND
    )


def heads(table: pd.DataFrame) -> go.Figure:
    """Draw one square per head: what it adds, from the bottom layer to the top.

    Args:
        table: result of `pli_analysis.metrics.attribution.attribution`.
    """
    ids, squares = by_head(table[table[col.PART_TYPE] == "head"], col.CONTRIBUTION)
    titles = ("head", "layer, bottom to top", ADDS)
    return grid(squares, ids, list(range(squares.shape[1])), titles, "head %{x} of layer %{y}: %{z:+.3f}")

"""Drift as a heat map, and as curves over steps or age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import views
from pli_analysis.figures.grid import grid
from pli_analysis.figures.palette import line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXES = {col.STEP: "steps", col.AGE: "age (steps since birth)"}
NAMES = {col.RELATIVE_L2: "relative L2 since birth", col.COSINE_DISTANCE: "1 − cosine since birth"}


def heat_map(table: pd.DataFrame, measure: str = col.RELATIVE_L2) -> go.Figure:
    """Draw one row per part, in the order of the last stack from bottom to top; empty before birth.

    Args:
        table: result of `pli_analysis.metrics.drift.drift`.
        measure: `relative_l2` or `cosine_distance`.
    """
    last = table.drop_duplicates(col.PART, keep="last").sort_values(col.INDEX, kind="stable")
    values = table.drop_duplicates([col.PART, col.STEP], keep="last").pivot(
        index=col.PART, columns=col.STEP, values=measure
    )
    values = values.loc[last[col.PART]]
    titles = "checkpoint (step)", "layer, bottom to top", NAMES[measure]
    return grid(values.to_numpy(), list(values.index), list(values.columns), titles, "%{y}at step %{x}: %{z:.4f}")


def curves(table: pd.DataFrame, measure: str = col.RELATIVE_L2) -> go.Figure:
    """Draw one curve per part, with views over steps and over age."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for part, rows in table.groupby(col.PART, sort=False):
        rows = rows.drop_duplicates(col.STEP, keep="last")
        drawn.add_trace(
            go.Scatter(
                x=rows[col.STEP],
                y=rows[measure],
                mode="lines+markers",
                marker={"size": 5},
                line={**line_of(rows[col.LAYER].iloc[0]), "width": 2},
                name=str(part),
                meta={"layer": rows[col.LAYER].iloc[0], **views.along({view: rows[view] for view in AXES})},
                hovertemplate=f"{part} at %{{x}}: %{{y:.4f}}<extra></extra>",
            )
        )
    drawn.update_layout(
        xaxis_title=AXES[col.STEP],
        yaxis={"title": NAMES[measure], "rangemode": "tozero"},
        meta={**views.axes(AXES), **views.BARE},
    )
    return drawn

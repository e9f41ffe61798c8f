"""Drift as a heat map, and as curves over steps or age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.figures import views
from pli_analysis.figures.grid import grid
from pli_analysis.figures.palette import line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXES = {"step": "steps", "age": "age (steps since birth)"}
NAMES = {"relative_l2": "relative L2 since birth", "cosine": "1 − cosine since birth"}


def heat_map(table: pd.DataFrame, measure: str = "relative_l2") -> go.Figure:
    """One row a part, in the order of the last stack, bottom to top; empty before its birth.

    Args:
        table: of `pli_analysis.metrics.drift.drift`.
        measure: `relative_l2` or `cosine`.
    """
    last = table.drop_duplicates("part", keep="last").sort_values("index", kind="stable")
    values = table.drop_duplicates(["part", "step"], keep="last").pivot(index="part", columns="step", values=measure)
    values = values.loc[last["part"]]
    titles = "checkpoint (step)", "layer, bottom to top", NAMES[measure]
    return grid(values.to_numpy(), list(values.index), list(values.columns), titles, "%{y}at step %{x}: %{z:.4f}")


def curves(table: pd.DataFrame, measure: str = "relative_l2") -> go.Figure:
    """One curve a part, in views over steps and over age."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for part, rows in table.groupby("part", sort=False):
        rows = rows.drop_duplicates("step", keep="last")
        drawn.add_trace(
            go.Scatter(
                x=rows["step"],
                y=rows[measure],
                mode="lines+markers",
                marker={"size": 5},
                line={**line_of(rows["layer"].iloc[0]), "width": 2},
                name=str(part),
                meta={"layer": rows["layer"].iloc[0], **views.along({view: rows[view] for view in AXES})},
                hovertemplate=f"{part} at %{{x}}: %{{y:.4f}}<extra></extra>",
            )
        )
    drawn.update_layout(
        xaxis_title=AXES["step"],
        yaxis={"title": NAMES[measure], "rangemode": "tozero"},
        meta={**views.axes(AXES), **views.BARE},
    )
    return drawn

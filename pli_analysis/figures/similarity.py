"""Similarity of pairs of layers as a heat map, and over time as curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.grid import grid
from pli_analysis.figures.palette import LEGEND, line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {col.CKA: "debiased CKA", col.PROCRUSTES: "Procrustes", col.NEIGHBORS: "shared nearest neighbors"}


def heat_map(table: pd.DataFrame, measure: str = col.CKA) -> go.Figure:
    """Draw one square per pair of layers, from bottom to top and left to right; symmetric within one run.

    Args:
        table: result of `pli_analysis.metrics.similarity.similarity` for one checkpoint on each side.
        measure: `cka`, `procrustes` or `neighbors`.
    """
    rows, columns = _layers(table, "a"), _layers(table, "b")
    values = {(row.layer_a, row.layer_b): getattr(row, measure) for row in table.itertuples()}
    names = table[col.RUN_A].iloc[0], table[col.RUN_B].iloc[0]
    within = len(values) < len(rows) * len(columns) or len(rows) == 1
    if within:  # the table has each pair once
        values |= {(b, a): value for (a, b), value in values.items()}
    squares = [[values[(row, column)] for column in columns] for row in rows]
    lowest = min([0.0, *(value for line in squares for value in line if value == value)])
    titles = _title("layer", names[1], within), _title("layer, bottom to top", names[0], within), NAMES[measure]
    hover = "%{y}and %{x}: %{z:.3f}"
    return grid(squares, rows, [f"{id} " for id in columns], titles, hover, zmin=lowest, zmax=1.0)


def curves(table: pd.DataFrame, measure: str = col.CKA) -> go.Figure:
    """Draw one curve per layer over steps.

    Args:
        table: result of `pli_analysis.metrics.similarity.similarity`, over time.
        measure: `cka`, `procrustes` or `neighbors`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for layer, rows in table.groupby(col.LAYER_A, sort=False):
        drawn.add_trace(
            go.Scatter(
                x=rows[col.STEP_A],
                y=rows[measure],
                mode="lines+markers",
                marker={"size": 5},
                line={**line_of(str(layer)), "width": 2},
                name=str(layer),
                meta={"layer": str(layer)},
                hovertemplate=f"{layer} at step %{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )
    drawn.update_layout(
        xaxis_title="steps",
        yaxis={"title": f"{NAMES[measure]} with the layer at birth", "rangemode": "tozero"},
        legend=LEGEND,
    )
    return drawn


def _layers(table: pd.DataFrame, side: str) -> list[str]:
    """Return the layers of one side, from bottom to top."""
    layer, index = col.of_side(col.LAYER, side), col.of_side(col.INDEX, side)
    return table.drop_duplicates(layer).sort_values(index, kind="stable")[layer].tolist()


def _title(what: str, run: str, within: bool) -> str:
    return what if within else f"{what}, of {run}"

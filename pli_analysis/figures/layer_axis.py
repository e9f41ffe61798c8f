"""Layers as positions on an axis: shade inserted layers, and arrange heads by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.palette import NEUTRAL

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def shade_inserted(drawn: go.Figure, table: pd.DataFrame, before: int = 0) -> None:
    """Shade the positions of inserted layers on a horizontal axis with one category per layer.

    Args:
        table: `index`, `is_inserted`; missing for rows that are not of one layer.
        before: number of categories before the first layer.
    """
    for index in table[table[col.IS_INSERTED].fillna(False)][col.INDEX].unique() + before:
        drawn.add_vrect(index - 0.5, index + 0.5, fillcolor=NEUTRAL, opacity=0.12, line_width=0, layer="below")


def by_head(table: pd.DataFrame, column: str) -> tuple[list[str], np.ndarray]:
    """Return the layer ids from the bottom to the top, and a column as (layers, heads); NaN where a head is missing.

    Args:
        table: one row per head, with `layer`.
    """
    of_layer = {str(layer): rows[column].tolist() for layer, rows in table.groupby(col.LAYER, sort=False)}
    most = max(map(len, of_layer.values()))
    return list(of_layer), np.array([[*values, *[np.nan] * (most - len(values))] for values in of_layer.values()])

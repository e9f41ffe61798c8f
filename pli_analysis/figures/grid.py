"""Heat maps with named rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.figures.palette import SEQUENTIAL, bar_below, color_bar, label_every

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_WITH_GAPS = 40
"""Maximum number of rows and columns drawn with gaps between squares; more would vanish on small screens."""
NAMED = 14
"""Maximum number of column names on the axis."""


def grid(
    values: Sequence[Sequence[float]] | np.ndarray,
    rows: Sequence[object],
    columns: Sequence[object],
    titles: tuple[str, str, str],
    hover: str,
    ticks: dict[str, Any] | None = None,
    **style: Any,
) -> go.Figure:
    """Draw one square per value, with rows from bottom to top.

    Args:
        values: (rows, columns); NaN leaves a square empty.
        rows, columns: names.
        titles: titles of the columns, the rows and the color bar.
        hover: plotly template of the hover text.
        ticks: arguments for the ticks of the color bar.
        style: further arguments of `go.Heatmap`.
    """
    import plotly.graph_objects as go

    gap = 1 if max(len(rows), len(columns)) <= MOST_WITH_GAPS else 0
    drawn = go.Figure(
        go.Heatmap(
            x=[str(name) for name in columns],
            y=[f"{name} " for name in rows],  # the blank separates names from squares
            z=np.asarray(values, dtype=float),
            colorscale=SEQUENTIAL,
            **color_bar(titles[2], **(ticks or {})),
            hovertemplate=f"{hover}<extra></extra>",
            xgap=gap,
            ygap=gap,
            **style,
        )
    )
    drawn.update_layout(
        xaxis={"title": titles[0], "type": "category", "showgrid": False, **_some(columns)},
        yaxis={"title": titles[1], "type": "category", "showgrid": False},
        meta=bar_below(titles[0], titles[2]),
    )
    return drawn


def _some(columns: Sequence[object]) -> dict[str, Any]:
    """Return the columns that are named; by name, as plotly takes a number for a position only if it is no name."""
    step = label_every(len(columns), NAMED)
    return {"tickvals": [str(name) for name in columns[::step]]} if step > 1 else {}

"""Heat maps with named rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.figures.palette import SEQUENTIAL, bar_below, color_bar, label_every

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_WITH_GAPS = 40
"""Rows and columns up to which squares lie apart: on a small screen gaps would be all there is to see of more."""
NAMED = 14
"""Columns up to which each has its name below it."""


def grid(
    values: Sequence[Sequence[float]] | np.ndarray,
    rows: Sequence[object],
    columns: Sequence[object],
    titles: tuple[str, str, str],
    hover: str,
    **style: Any,
) -> go.Figure:
    """A square a value, rows from the bottom up.

    Args:
        values: (rows, columns), NaN for nothing.
        rows, columns: names.
        titles: of the columns, the rows and the colors.
        hover: what pointing at a square tells, as plotly's templates are.
        style: more for the heat map.
    """
    import plotly.graph_objects as go

    gap = 1 if max(len(rows), len(columns)) <= MOST_WITH_GAPS else 0
    drawn = go.Figure(
        go.Heatmap(
            x=[str(name) for name in columns],
            y=[f"{name} " for name in rows],  # the blank keeps names off the squares
            z=np.asarray(values, dtype=float),
            colorscale=SEQUENTIAL,
            **color_bar(titles[2]),
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
    """Which columns have their names below them: places, as a category may look like a number."""
    step = label_every(len(columns), NAMED)
    return {"tickvals": list(range(0, len(columns), step))} if step > 1 else {}

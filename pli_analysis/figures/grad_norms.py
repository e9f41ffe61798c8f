"""Heat map of gradient norms of heads and FFNs over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.palette import (
    MOST_ON_NARROW,
    NEUTRAL,
    SEQUENTIAL,
    bar_below,
    color_bar,
    label_every,
    number_of,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LEVELS = ("head", "ffn")
ROW, MOST = 13, 1400
"""Height of a row that keeps its name readable, and maximum height of the figure, in pixels."""


def heat_map(table: pd.DataFrame, events: dict[int, str]) -> go.Figure:
    """Draw one row per head or FFN, in the order of the last stack from bottom to top; empty before birth.

    Args:
        table: result of `pli_analysis.metrics.grad_norms.logged`, restricted to `LEVELS`.
        events: step of each growth event → its label.
    """
    import plotly.graph_objects as go

    names = _rows(table)
    grid = table.pivot_table(index=col.PART, columns=col.STEP, values=col.GRAD_NORM, aggfunc="last").loc[names]
    with np.errstate(divide="ignore"):
        powers = np.log10(grid.to_numpy(dtype=float))
    powers[~np.isfinite(powers)] = np.nan
    drawn = go.Figure(
        go.Heatmap(
            x=[str(step) for step in grid.columns],
            y=[f"{part} " for part in names],
            z=np.round(powers, 3),
            colorscale=SEQUENTIAL,
            **color_bar("gradient norm (before clipping)", **_ticks(powers)),
            hovertemplate="%{y}at step %{x}: gradient norm 10^%{z:.2f}<extra></extra>",
        )
    )
    for step, label in events.items():
        # The axis is categorical: the line goes between the last measurement before the event and the first after it.
        position = int((grid.columns <= step).sum()) - 0.5
        if -0.5 < position < len(grid.columns) - 0.5:
            drawn.add_vline(x=position, line={"color": NEUTRAL, "dash": "dot", "width": 1})
            drawn.add_annotation(x=position, y=1, yref="paper", yanchor="bottom", text=label, showarrow=False)
    meta, named = bar_below("step", "gradient norm"), [note.to_plotly_json() for note in drawn.layout.annotations]
    meta["narrow"]["annotations"] = named[:: label_every(len(named), MOST_ON_NARROW)]
    drawn.update_layout(
        xaxis={"title": "step", "type": "category", "showgrid": False, "nticks": 12},
        yaxis={"title": "head or FFN, bottom to top", "type": "category", "showgrid": False},
        height=min(max(450, 140 + ROW * len(names)), MOST),
        meta=meta,
    )
    return drawn


def _rows(table: pd.DataFrame) -> list[str]:
    """Return row names from bottom to top: by index of the layer (by birth if unknown), heads before the FFN."""
    last = table.drop_duplicates(col.PART, keep="last")
    keys = {
        row.part: (number_of(row.layer) if _missing(row.index_) else row.index_, row.part_type == "ffn", len(row.part))
        for row in last.rename(columns={col.INDEX: "index_"}).itertuples()
    }
    return sorted(keys, key=lambda part: (*keys[part], part))


def _missing(value: object) -> bool:
    import pandas as pd

    return bool(pd.isna(value))


def _ticks(powers: np.ndarray) -> dict[str, list[object]]:
    """Return the ticks of the color bar: powers of ten, or both ends and the middle if there are fewer than two."""
    if not np.isfinite(powers).any():
        return {}
    low, high = float(np.nanmin(powers)), float(np.nanmax(powers))
    whole = [float(power) for power in range(int(np.ceil(low)), int(np.floor(high)) + 1)]
    marks = whole if len(whole) > 1 else [low, (low + high) / 2, high]
    return {"tickvals": [round(mark, 3) for mark in marks], "ticktext": [f"{10**mark:.3g}" for mark in marks]}

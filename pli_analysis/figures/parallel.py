"""Parallel coordinates: one horizontal axis per parameter, one line per trial.

The axes are rows, so that their names and labels fit on a narrow page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.markup import escaped
from pli_analysis.figures.palette import COLORS, LEGEND, NEUTRAL
from pli_analysis.figures.parameter_axis import ParameterAxis, axis_of
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ROW = 74
"""Height of an axis in pixels."""
UNSET = 1.12
"""Position of trials that do not have a parameter, to the right of its axis."""
SPREAD = 0.02
"""Distance of lines that pass through the same category."""


def figure(table: pd.DataFrame, parameters: Mapping[str, bool], value: str) -> go.Figure:
    """Draw all complete trials, with the best one and the best third in colors.

    Args:
        table: one row per complete trial: `number`, `value`, and a column per parameter.
        parameters: parameter → whether its scale is logarithmic.
        value: name of the lowest axis, that of the value.
    """
    import plotly.graph_objects as go

    rows = table.sort_values(col.VALUE, ascending=False)
    columns = {**{name: (rows[name], log) for name, log in parameters.items()}, value: (rows[col.VALUE], False)}
    scales = {name: axis_of(column[column.notna()], log) for name, (column, log) in columns.items()}
    heights = dict(zip(columns, range(len(columns) - 1, -1, -1), strict=True))
    at = np.array([_positions(column, scales[name]) for name, (column, _) in columns.items()])
    drawn = go.Figure()
    best_third = max(len(rows) // 3, 1)
    groups = (
        ("others", slice(0, len(rows) - best_third), {"color": NEUTRAL, "width": 1}, 0.5),
        (
            f"rest of the best third ({counted(best_third - 1, 'trial')})",
            slice(len(rows) - best_third, -1),
            {"color": COLORS[0], "width": 2},
            0.8,
        ),
        (f"best trial ({rows[col.NUMBER].iloc[-1]})", slice(-1, None), {"color": COLORS[1], "width": 4}, 1.0),
    )
    for name, part, line, opacity in groups:
        lines = at[:, part]
        if lines.shape[1]:
            drawn.add_scatter(
                **_joined(lines, list(heights.values())),
                name=name,
                line=line,
                opacity=opacity,
                mode="lines",
                hoverinfo="skip",
            )
    for name, scale in scales.items():
        _draw_axis(drawn, name, scale, heights[name], bool(columns[name][0].isna().any()))
    end = UNSET + 0.06 if any(column.isna().any() for column, _ in columns.values()) else 1.06
    drawn.update_xaxes(visible=False, range=[-0.06, end])
    drawn.update_yaxes(visible=False, range=[-0.55, len(columns) - 0.35])
    return drawn.update_layout(
        height=ROW * len(columns) + 70, legend=LEGEND, margin={"l": 10, "r": 10, "t": 10, "b": 50}
    )


def _positions(column: pd.Series, scale: ParameterAxis) -> np.ndarray:
    """Return the horizontal position of each trial on an axis; lines in one category are spread a little."""
    found = np.full(len(column), UNSET)
    found[column.notna().to_numpy()] = scale.shares
    if scale.categorical:
        found = found + SPREAD * (np.linspace(-1, 1, len(found)) if len(found) > 1 else 0.0)
    return found


def _joined(lines: np.ndarray, heights: list[int]) -> dict[str, list[float | None]]:
    """Return (axes, trials) positions as one trace: trials one after another, with gaps in between."""
    x: list[float | None] = []
    y: list[float | None] = []
    for trial in lines.T:
        x += [*(float(f"{position:.5g}") for position in trial), None]
        y += [*heights, None]
    return {"x": x, "y": y}


def _draw_axis(drawn: go.Figure, name: str, scale: ParameterAxis, height: int, has_unset: bool) -> None:
    """Draw an axis with its name above its left end, and ticks with labels below it."""
    ends, ticks = [0.0, 1.0], scale.share(scale.ticks).tolist()
    texts = list(scale.texts)
    if has_unset:
        ticks, texts = [*ticks, UNSET], [*texts, "not set"]
    quiet = {"hoverinfo": "skip", "showlegend": False, "cliponaxis": False}
    line = {"color": NEUTRAL, "width": 1.5}
    drawn.add_scatter(x=ends, y=[height, height], mode="lines", line=line, **quiet)
    marker = {"symbol": "line-ns", "size": 8, "line": {"color": NEUTRAL, "width": 1.5}}
    drawn.add_scatter(x=ticks, y=[height] * len(ticks), mode="markers", marker=marker, **quiet)
    drawn.add_scatter(x=ticks, y=[height - 0.2] * len(ticks), text=texts, mode="text", textfont={"size": 12}, **quiet)
    drawn.add_scatter(
        x=[-0.05],
        y=[height + 0.26],
        text=[f"<b>{escaped(name)}</b>"],
        mode="text",
        textposition="middle right",
        **quiet,
    )

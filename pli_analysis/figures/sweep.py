"""Figures of a study: best value so far, value over each parameter, importance, loss over FLOPs of the best trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.palette import COLORS, LEGEND
from pli_analysis.figures.panels import panels, suffix
from pli_analysis.figures.parameter_axis import axis_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BEST = COLORS[1]
"""Color of the best trial."""
BAR = 46
"""Height of a bar with its name, in pixels."""
JITTER = 0.16
"""Largest horizontal shift of a point, so that trials with the same value of a categorical parameter are visible."""


def history(table: pd.DataFrame, value: str) -> go.Figure:
    """Draw the value of each complete trial, and the lowest so far as steps.

    Args:
        table: `arm`, `number`, `value`, `best_value`.
        value: title of the vertical axis.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for color, (arm, rows) in zip(COLORS, table.groupby(col.ARM, sort=False), strict=False):
        marker = {"color": color, "size": 7, "opacity": 0.55}
        name = f"{arm}, each trial"
        drawn.add_scatter(x=rows[col.NUMBER], y=rows[col.VALUE], mode="markers", marker=marker, name=name)
        line = {"color": color, "width": 2.5, "shape": "hv"}
        name = f"{arm}, best so far"
        drawn.add_scatter(x=rows[col.NUMBER], y=rows[col.BEST_VALUE], mode="lines", line=line, name=name)
    last = int(table[col.NUMBER].max())
    whole = {"title": "trial", "tickformat": "d", "range": [-0.5, last + 0.5]} | ({"dtick": 1} if last < 10 else {})
    return drawn.update_layout(xaxis=whole, yaxis_title=value, legend=LEGEND, hovermode="closest")


def importance(table: pd.DataFrame) -> go.Figure:
    """Draw a bar per parameter, with its name above it.

    Args:
        table: `parameter`, `importance`, the largest first.
    """
    import plotly.graph_objects as go

    rows = table.iloc[::-1]
    names, values = rows[col.PARAMETER].tolist(), rows[col.IMPORTANCE].to_numpy(dtype=float)
    at = np.arange(len(rows))
    drawn = go.Figure()
    hover = {"customdata": names, "hovertemplate": "%{customdata}: %{x:.3f}<extra></extra>"}
    drawn.add_bar(x=values, y=at, width=0.4, orientation="h", marker={"color": COLORS[0]}, **hover)
    words = [f"{name}  {value:.2f}" for name, value in zip(names, values, strict=True)]
    position = {"textposition": "middle right", "cliponaxis": False, "hoverinfo": "skip"}
    drawn.add_scatter(x=[0] * len(rows), y=at + 0.38, text=words, mode="text", **position)
    drawn.update_xaxes(title="share of the variance of the value", range=[0, max(1.0, values.max(initial=0))])
    drawn.update_yaxes(visible=False, range=[-0.5, len(rows) - 0.35])
    return drawn.update_layout(showlegend=False, height=90 + BAR * len(rows))


def slices(table: pd.DataFrame, parameters: Mapping[str, bool], value: str) -> go.Figure:
    """Draw the value over each parameter, one panel per parameter: two side by side, or one on a narrow page.

    Args:
        table: one row per complete trial: `number`, `value`, and a column per parameter.
        parameters: parameter → whether its scale is logarithmic.
        value: title of the vertical axes.
    """
    import plotly.graph_objects as go

    drawn, best = go.Figure(), table[col.VALUE].idxmin()
    axes: dict[str, Any] = {}
    for number, (name, log) in enumerate(parameters.items(), 1):
        rows = table[table[name].notna()]
        scale = axis_of(rows[name], log)
        marks = {"xaxis": f"x{suffix(number)}", "yaxis": f"y{suffix(number)}", "mode": "markers", "showlegend": False}
        words = [f"trial {trial}: {name} = {of}" for trial, of in zip(rows[col.NUMBER], scale.labels, strict=True)]
        hover = {"text": words, "hovertemplate": "%{text}, value %{y:.4f}<extra></extra>"}
        is_best = rows.index == best
        marker = {
            "color": [BEST if mine else COLORS[0] for mine in is_best],
            "symbol": ["star" if mine else "circle" for mine in is_best],
            "size": [13 if mine else 7 for mine in is_best],
            "opacity": [1.0 if mine else 0.65 for mine in is_best],
        }
        drawn.add_scatter(x=scale.values + scale.spread(JITTER), y=rows[col.VALUE], marker=marker, **hover, **marks)
        axes[f"xaxis{suffix(number)}"] = {
            "title": {"text": name, "standoff": 6},
            "anchor": marks["yaxis"],
            **scale.layout,
        }
        axes[f"yaxis{suffix(number)}"] = {"anchor": marks["xaxis"], "title": {"text": value}, **_range(table)}
    wide, narrow = panels(len(parameters), 2), panels(len(parameters), 1)
    drawn.update_layout(wide | {name: own | wide[name] for name, own in axes.items()})
    return drawn.update_layout(meta={"narrow": narrow}, hovermode="closest")


def losses(table: pd.DataFrame, means: pd.DataFrame) -> go.Figure:
    """Draw the loss over FLOPs of each arm: runs as thin lines, their mean, and a band from the lowest to the highest.

    Args:
        table: `run`, `group` (arm), `is_event`, `flops`, `loss`.
        means: `group`, `flops`, `loss`, `loss_low`, `loss_high`; no rows for an arm with one run.
    """
    import plotly.graph_objects as go

    drawn, averaged = go.Figure(), set(means[col.GROUP])
    for color, (arm, rows) in zip(COLORS, table.groupby(col.GROUP, sort=False), strict=False):
        several, runs = arm in averaged, rows[col.RUN].nunique()
        if several:
            mine = means[means[col.GROUP] == arm]
            outline = (
                np.append(mine[col.FLOPS], mine[col.FLOPS][::-1]),
                np.append(mine[col.LOSS_HIGH], mine[col.LOSS_LOW][::-1]),
            )
            band = {"fill": "toself", "fillcolor": color, "opacity": 0.2, "line": {"width": 0}, "mode": "lines"}
            drawn.add_scatter(x=outline[0], y=outline[1], name=f"{arm}, all {runs} seeds", hoverinfo="skip", **band)
            line = {"color": color, "width": 2.5}
            drawn.add_scatter(x=mine[col.FLOPS], y=mine[col.LOSS], name=f"{arm}, mean", mode="lines", line=line)
        for run, each in rows.groupby(col.RUN, sort=False):
            curve, grown = each[~each[col.IS_EVENT]], each[each[col.IS_EVENT]]
            thin = {"color": color, "width": 1 if several else 2.5}
            style = {"mode": "lines", "line": thin, "opacity": 0.45 if several else 1.0, "showlegend": not several}
            drawn.add_scatter(
                x=curve[col.FLOPS], y=curve[col.LOSS], name=f"{arm}" if not several else str(run), **style
            )
            marker = {"symbol": "triangle-up", "size": 9, "color": color}
            style = {"mode": "markers", "marker": marker, "showlegend": False, "name": f"{run}, growth event"}
            if len(grown):
                drawn.add_scatter(x=grown[col.FLOPS], y=grown[col.LOSS], **style)
    whole = {"title": "eval loss", "range": _after_start(table)}
    return drawn.update_layout(xaxis_title="FLOPs", yaxis=whole, legend=LEGEND, hovermode="closest")


def _after_start(table: pd.DataFrame) -> list[float]:
    """Return the range of losses after the first evaluation, which is that of an untrained model."""
    first = table.groupby(col.RUN, sort=False)[col.FLOPS].transform("min")
    rest = table[table[col.FLOPS] > first]
    kept = (rest if len(rest) else table)[col.LOSS]
    margin = 0.06 * (kept.max() - kept.min()) or 0.1
    return [kept.min() - margin, kept.max() + margin]


def _range(table: pd.DataFrame) -> dict[str, Sequence[float]]:
    """Return the vertical range of all panels."""
    low, high = table[col.VALUE].min(), table[col.VALUE].max()
    margin = 0.08 * (high - low) or 0.1
    return {"range": [low - margin, high + margin]}

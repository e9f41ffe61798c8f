"""Loss over training, with a line at each growth event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import views
from pli_analysis.figures.palette import COLORS, LEGEND, MOST_ON_NARROW, NEUTRAL, label_every

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXES = {col.STEP: "steps", col.TOKENS: "tokens", col.FLOPS: "FLOPs", col.SECONDS: "seconds of training"}
MOST = 2000
"""Maximum number of points of a curve."""
FEW, SMOOTH = 200, 100
"""Number of steps above which a smoothed curve is added, and number of means on it."""


def figure(table: pd.DataFrame, births: dict[str, np.ndarray], born: list[str]) -> go.Figure:
    """Draw train and eval loss over steps, with a view for each axis that was logged (see `views`).

    Args:
        table: result of `pli_analysis.metrics.loss`.
        births: axis → positions of the growth events on it.
        born: label of each event (`+b`).
    """
    import plotly.graph_objects as go

    axes = {axis: title for axis, title in AXES.items() if table[axis].notna().any()}
    drawn = go.Figure(curves(table, list(axes)))
    if born:
        drawn.add_traces(_events({axis: births[axis] for axis in axes}, born, table[col.LOSS].to_numpy()))
    drawn.update_layout(
        xaxis_title=AXES[col.STEP],
        yaxis_title="loss (nats per token)",
        legend=LEGEND,
        hovermode="closest",
        meta=views.axes(axes),
    )
    return drawn


def curves(table: pd.DataFrame, axes: Sequence[str]) -> list[go.Scatter]:
    """Draw train and eval loss over the first of some axes; with several, a page can switch to the others.

    Args:
        table: result of `pli_analysis.metrics.loss`.
        axes: keys of `AXES`.
    """
    drawn = []
    train, eval = (table[table[col.SPLIT] == kind] for kind in ("train", "eval"))
    if len(train):
        kept = train.iloc[extremes(train[col.LOSS].to_numpy(), MOST)]
        drawn.append(_curve(kept, axes, name="train, each step", line={"color": NEUTRAL, "width": 1}, opacity=0.55))
    if len(train) > FEW:
        width = len(train) // SMOOTH | 1
        smooth = train.assign(**{col.LOSS: train[col.LOSS].rolling(width, center=True).mean()}).dropna(subset=col.LOSS)
        kept = smooth.iloc[:: max(width // 4, 1)]
        drawn.append(_curve(kept, axes, name=f"train, mean of {width} steps", line={"color": COLORS[1], "width": 2}))
    if len(eval):
        mode = {"mode": "lines+markers", "marker": {"size": 6}}
        drawn.append(_curve(eval, axes, name="eval", line={"color": COLORS[0], "width": 2.5}, **mode))
    return drawn


def extremes(values: np.ndarray, most: int) -> np.ndarray:
    """Return sorted indices of at most `most` points: the lowest and the highest of each interval.

    >>> extremes(np.array([0, 9, 1, 2, -5, 3]), most=4).tolist()
    [0, 1, 4, 5]
    """
    if len(values) <= most:
        return np.arange(len(values))
    intervals = np.array_split(np.arange(len(values)), most // 2)
    return np.unique([s[pick(values[s])] for s in intervals for pick in (np.nanargmin, np.nanargmax)])


def _curve(table: pd.DataFrame, axes: Sequence[str], **style: Any) -> go.Scatter:
    import plotly.graph_objects as go

    along = views.along({axis: table[axis] for axis in axes}) if len(axes) > 1 else None
    return go.Scatter(x=table[axes[0]], y=table[col.LOSS], meta=along, **{"mode": "lines", **style})


def _events(births: dict[str, np.ndarray], born: list[str], losses: np.ndarray) -> list[go.Scatter]:
    """Draw a labelled vertical line per event, as traces, so that they move when the axis is switched."""
    import plotly.graph_objects as go

    low, high = float(np.nanmin(losses)), float(np.nanmax(losses))
    upright = {axis: np.repeat(np.asarray(at, dtype=float), 3) for axis, at in births.items()}
    lines = go.Scatter(
        x=upright[col.STEP],
        y=[low, high, None] * len(born),
        mode="lines",
        line={"color": NEUTRAL, "dash": "dot", "width": 1},
        name="growth event",
        hoverinfo="skip",
        meta=views.along(upright),
    )
    words = go.Scatter(
        x=births[col.STEP],
        y=[high] * len(born),
        text=born,
        mode="text",
        textposition="top center",
        cliponaxis=False,
        hoverinfo="text+x",
        showlegend=False,
        meta={**views.along(births), "narrow": {"text": some(born, MOST_ON_NARROW)}},
    )
    return [lines, words]


def some(names: list[str], most: int) -> list[str]:
    """Keep at most `most` names, evenly spaced, and replace the others by an empty string.

    >>> some(["+b", "+c", "+d"], most=2)
    ['+b', '', '+d']
    """
    step = label_every(len(names), most)
    return [name if position % step == 0 else "" for position, name in enumerate(names)]

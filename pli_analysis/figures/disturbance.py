"""Loss after each growth event, heat map of disturbed layers, disturbance over distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import views
from pli_analysis.figures.grid import grid
from pli_analysis.figures.palette import COLORS, LEGEND, NEUTRAL, line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star")
"""One an initializer, where runs have the colors."""


def losses(curves: pd.DataFrame) -> go.Figure:
    """One curve an event: how far the loss stood above what was to be expected.

    Args:
        curves: `step` and `event` of the event, `layer` (the first it brought, or empty), `steps_since`,
            `smoothed_excess_loss` (nats, running median).
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for (step, event), rows in curves.groupby([col.STEP, col.EVENT], sort=False):
        layer = rows[col.LAYER].iloc[0]
        name = f"{event} @ {step}"
        line = line_of(layer) if layer else {"color": NEUTRAL}
        hover = f"{name}: %{{y:.3f}} nats after %{{x}} steps<extra></extra>"
        style = {"mode": "lines", "line": {**line, "width": 2}, "name": name, "hovertemplate": hover}
        if layer:
            style["meta"] = {"layer": layer}
        drawn.add_trace(go.Scatter(x=rows[col.STEPS_SINCE], y=rows[col.SMOOTHED_EXCESS_LOSS], **style))
    drawn.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    drawn.update_layout(xaxis_title="steps since the event", yaxis_title="loss − expected (nats)", legend=LEGEND)
    drawn.update_layout(meta=views.BARE)
    return drawn


def heat_map(layers: pd.DataFrame) -> go.Figure:
    """The score of each layer at each event; empty where it was not there before.

    Args:
        layers: of `pli_analysis.metrics.disturbance.disturbance`.
    """
    message = layers.assign(name=_names(layers))
    order = message.drop_duplicates(col.LAYER, keep="last").sort_values(col.INDEX, kind="stable")[col.LAYER]
    names = list(dict.fromkeys(message["name"]))
    columns = [
        message.pivot(index=col.LAYER, columns="name", values=column).loc[order, names].to_numpy(dtype=float)
        for column in (col.SCORE, col.P, col.LAYERS_FROM_EVENT, col.OUTPUT_CHANGE, col.EXCESS_LOG_UPDATE_RATE)
    ]
    hover = (
        "%{y}at %{x}: score %{z:.1f}, p %{customdata[0]:.3f}<br>%{customdata[1]:+d} places from the event<br>"
        "output changed by %{customdata[2]:.1%}<br>movement %{customdata[3]:+.2f} e-folds"
    )
    titles = "growth event", "layer, bottom to top", "score (robust z)"
    return grid(columns[0], list(order), names, titles, hover, customdata=np.stack(columns[1:], axis=-1))


def by_distance(layers: pd.DataFrame) -> go.Figure:
    """How much faster each layer moved after an event, over its distance from it.

    Args:
        layers: of `pli_analysis.metrics.disturbance.disturbance`, rows with `layers_from_event` and
            `excess_log_update_rate`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for layer, rows in layers.groupby(col.LAYER, sort=False):
        drawn.add_trace(
            go.Scatter(
                x=rows[col.LAYERS_FROM_EVENT].astype(float),
                y=np.exp(rows[col.EXCESS_LOG_UPDATE_RATE]),
                mode="markers",
                marker={"size": 9, "color": line_of(layer)["color"]},
                name=str(layer),
                meta={"layer": str(layer)},
                text=_names(rows),
                hovertemplate=f"{layer} at %{{text}}: %{{y:.2f}} times as fast, %{{x:+d}} places away<extra></extra>",
            )
        )
    drawn.add_hline(y=1, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    label_every = int(layers[col.LAYERS_FROM_EVENT].max() - layers[col.LAYERS_FROM_EVENT].min())
    drawn.update_layout(
        xaxis={"title": "places above the event", "dtick": max(1, round(label_every / 12))},
        yaxis={"title": "movement ÷ usual", "type": "log"},
        legend=LEGEND,
        meta=views.BARE,
    )
    return drawn


def spikes(events: pd.DataFrame) -> go.Figure:
    """The loss spike of each event of several runs, over how high in the stack it was.

    Args:
        events: `run`, `initializer`, `height` (0 at the bottom, 1 at the top) and the columns of
            `pli_analysis.metrics.disturbance.disturbance`, rows with a `spike`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    initializers = list(dict.fromkeys(events[col.INITIALIZER].fillna("")))
    for number, (run, rows) in enumerate(events.groupby(col.RUN, sort=False)):
        symbols = [SYMBOLS[initializers.index(made) % len(SYMBOLS)] for made in rows[col.INITIALIZER].fillna("")]
        drawn.add_trace(
            go.Scatter(
                x=rows[col.HEIGHT],
                y=rows[col.SPIKE],
                mode="markers",
                marker={"size": 11, "symbol": symbols, "color": COLORS[number % len(COLORS)]},
                name=str(run),
                text=[f"{name}, {made}" for name, made in zip(_names(rows), rows[col.INITIALIZER], strict=True)],
                hovertemplate=f"{run}: %{{text}}<br>spike %{{y:.3f}} nats<extra></extra>",
            )
        )
    drawn.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    drawn.update_layout(
        xaxis={"title": "place in the stack (1: the top)", "range": [-0.05, 1.05]},
        yaxis_title="loss spike (nats)",
        legend=LEGEND,
    )
    return drawn


def _names(rows: pd.DataFrame) -> list[str]:
    """What events are called on an axis."""
    return [f"{event} @ {step}" for step, event in zip(rows[col.STEP], rows[col.EVENT], strict=True)]

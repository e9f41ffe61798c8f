"""Excess loss after each growth event, heat map of layer scores, update rate over distance, loss spikes."""

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
"""One symbol per initializer, in figures whose colors mark runs."""


def losses(curves: pd.DataFrame) -> go.Figure:
    """Draw the excess loss (loss minus expected loss) after each event, one curve per event.

    Args:
        curves: `step` and `event` of the event, `layer` (the first that it inserted, or empty), `steps_since`,
            `smoothed_excess_loss` (nats, running median).
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for (step, event), rows in curves.groupby([col.STEP, col.EVENT], sort=False):
        layer = rows[col.LAYER].iloc[0]
        name = f"{event} @ {step}"
        line = line_of(layer) if layer else {"color": NEUTRAL}
        hover = f"{name}: %{{y:+.3f}} nats, %{{x}} steps after the event<extra></extra>"
        style = {"mode": "lines", "line": {**line, "width": 2}, "name": name, "hovertemplate": hover}
        if layer:
            style["meta"] = {"layer": layer}
        drawn.add_trace(go.Scatter(x=rows[col.STEPS_SINCE], y=rows[col.SMOOTHED_EXCESS_LOSS], **style))
    drawn.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    drawn.update_layout(xaxis_title="steps since the event", yaxis_title="excess loss (nats)", legend=LEGEND)
    drawn.update_layout(meta=views.BARE)
    return drawn


def heat_map(layers: pd.DataFrame) -> go.Figure:
    """Draw the score of each layer at each event; empty where the layer did not exist before.

    Args:
        layers: table of `pli_analysis.metrics.disturbance.disturbance`.
    """
    named = layers.assign(name=_names(layers))
    order = named.drop_duplicates(col.LAYER, keep="last").sort_values(col.INDEX, kind="stable")[col.LAYER]
    names = list(dict.fromkeys(named["name"]))
    columns = [
        named.pivot(index=col.LAYER, columns="name", values=column).loc[order, names].to_numpy(dtype=float)
        for column in (col.SCORE, col.P, col.LAYERS_FROM_EVENT, col.OUTPUT_CHANGE, col.EXCESS_LOG_UPDATE_RATE)
    ]
    hover = (
        "%{y}at %{x}: score %{z:.1f}, p %{customdata[0]:.3f}<br>%{customdata[1]:+d} layers from the event<br>"
        "output change %{customdata[2]:.1%}<br>log(update rate ÷ expected) %{customdata[3]:+.2f}"
    )
    titles = "growth event", "layer, bottom to top", "score (robust z)"
    return grid(columns[0], list(order), names, titles, hover, customdata=np.stack(columns[1:], axis=-1))


def by_distance(layers: pd.DataFrame) -> go.Figure:
    """Draw each layer's update rate after an event ÷ the expected rate, over the distance from the event.

    Args:
        layers: table of `pli_analysis.metrics.disturbance.disturbance`, rows with `layers_from_event` and
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
                hovertemplate=f"{layer} at %{{text}}: %{{y:.2f}} × expected rate, %{{x:+d}} layers away<extra></extra>",
            )
        )
    drawn.add_hline(y=1, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    distances = int(layers[col.LAYERS_FROM_EVENT].max() - layers[col.LAYERS_FROM_EVENT].min())
    drawn.update_layout(
        xaxis={"title": "distance from the event (layers, positive: above)", "dtick": max(1, round(distances / 12))},
        yaxis={"title": "update rate ÷ expected", "type": "log"},
        legend=LEGEND,
        meta=views.BARE,
    )
    return drawn


def spikes(events: pd.DataFrame) -> go.Figure:
    """Draw the loss spike of each event of several runs, over its relative height in the stack.

    Args:
        events: `run`, `initializer`, `height` (0 at the bottom, 1 at the top) and the columns of
            `pli_analysis.metrics.disturbance.disturbance`, rows with a `spike`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    initializers = list(dict.fromkeys(events[col.INITIALIZER].fillna("")))
    for number, (run, rows) in enumerate(events.groupby(col.RUN, sort=False)):
        symbols = [SYMBOLS[initializers.index(name) % len(SYMBOLS)] for name in rows[col.INITIALIZER].fillna("")]
        drawn.add_trace(
            go.Scatter(
                x=rows[col.HEIGHT],
                y=rows[col.SPIKE],
                mode="markers",
                marker={"size": 11, "symbol": symbols, "color": COLORS[number % len(COLORS)]},
                name=str(run),
                text=[f"{event}, {name}" for event, name in zip(_names(rows), rows[col.INITIALIZER], strict=True)],
                hovertemplate=f"{run}: %{{text}}<br>spike %{{y:.3f}} nats<extra></extra>",
            )
        )
    drawn.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    drawn.update_layout(
        xaxis={"title": "relative height in the stack (0: bottom, 1: top)", "range": [-0.05, 1.05]},
        yaxis_title="loss spike (nats)",
        legend=LEGEND,
    )
    return drawn


def _names(rows: pd.DataFrame) -> list[str]:
    """Return the names of events on an axis: `+b @ 40`."""
    return [f"{event} @ {step}" for step, event in zip(rows[col.STEP], rows[col.EVENT], strict=True)]

"""Loss changes of ablations: of layers as points with intervals, of heads as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures.grid import grid
from pli_analysis.figures.layer_axis import by_head, shade_inserted
from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SERIES = {
    ("layer", "skip"): "layer skipped",
    ("layer", "swap"): "swapped with the layer above",
    ("layer", "donor"): "replaced by its donor",
    ("ffn", "mask"): "FFN masked",
}
"""Part type and ablation → name in the legend."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
FLOOR = 1e-3
"""Smallest absolute loss change on the logarithmic axis, in nats; smaller ones are drawn here."""
CHANGE = "absolute change of the loss (nats)"


def layers(table: pd.DataFrame) -> go.Figure:
    """Draw the absolute loss change of each ablation of a layer, with its 95 % interval, from the bottom to the top.

    Markers are open where the loss falls.

    Args:
        table: result of `pli_analysis.metrics.ablation.ablation`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (kind, name) in enumerate(SERIES.items()):
        rows = table[(table[col.PART_TYPE] == kind[0]) & (table[col.ABLATION] == kind[1])]
        if not len(rows):
            continue
        value = rows[col.LOSS_CHANGE]
        ends = rows[[col.LOSS_CHANGE_LOW, col.LOSS_CHANGE_HIGH]].to_numpy()
        size = value.abs().clip(lower=FLOOR)
        low = np.where(ends[:, 0] * ends[:, 1] < 0, FLOOR, np.abs(ends).min(axis=1).clip(FLOOR))
        high = np.abs(ends).max(axis=1).clip(FLOOR)
        drawn.add_trace(
            go.Scatter(
                x=rows[col.LAYER],
                y=size,
                error_y={"array": high - size, "arrayminus": size - low, "thickness": 1, "width": 3},
                mode="markers",
                marker={
                    "size": 9,
                    "symbol": np.where(value < 0, f"{SYMBOLS[number]}-open", SYMBOLS[number]),
                    "color": numbered_line(number)["color"],
                },
                name=name,
                customdata=np.stack([rows[name] for name in (col.LOSS_CHANGE, col.AGE)], axis=1),
                hovertemplate=f"{name}, layer %{{x}}: %{{customdata[0]:+.3f}} (age %{{customdata[1]:,}} steps)"
                "<extra></extra>",
            )
        )
    shade_inserted(drawn, table)
    drawn.update_layout(
        xaxis={"title": "layer, bottom to top", "type": "category"},
        yaxis={"title": CHANGE, "type": "log", "dtick": 1},
        legend=LEGEND,
    )
    return drawn


def heads(table: pd.DataFrame) -> go.Figure:
    """Draw one square per head: the absolute loss change if it is masked, on a logarithmic scale.

    Args:
        table: result of `pli_analysis.metrics.ablation.ablation`.
    """
    masked = table[table[col.PART_TYPE] == "head"]
    ids, squares = by_head(masked, col.LOSS_CHANGE)
    logarithms = np.log10(np.clip(np.abs(squares), FLOOR, None))
    lowest, highest = round(np.log10(FLOOR)), max(0, int(np.ceil(np.nanmax(logarithms))))
    decades = range(lowest, highest + 1)
    ticks = {"tickvals": list(decades), "ticktext": [f"{10.0**decade:g}" for decade in decades]}
    return grid(
        logarithms,
        ids,
        list(range(squares.shape[1])),
        ("head", "layer, bottom to top", CHANGE),
        "head %{x} of layer %{y}: %{customdata:+.3f}",
        ticks,
        customdata=squares,
        zmin=lowest,
        zmax=highest,
    )

"""The stack over time: one line per layer at its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.palette import NEUTRAL, line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def figure(layers: pd.DataFrame, locations: pd.DataFrame) -> go.Figure:
    """Draw each layer as a line over steps at its index, with births and donors.

    Args:
        layers, locations: tables of `pli_analysis.metrics.lineage`.
    """
    import plotly.graph_objects as go

    drawn = go.Figure(lines(locations, (col.START_STEP, col.END_STEP), "step"))
    born = layers[layers[col.EVENT_NUMBER].notna()].merge(
        locations, left_on=[col.LAYER, col.BIRTH_STEP], right_on=[col.LAYER, col.START_STEP]
    )
    drawn.add_trace(_donations(born, locations))
    drawn.add_trace(
        go.Scatter(
            x=born[col.BIRTH_STEP],
            y=born[f"{col.INDEX}_y"],
            mode="markers",
            marker={"size": 11, "symbol": "circle", "color": [line_of(id)["color"] for id in born[col.LAYER]]},
            text=[
                f"{row.layer}: {row.initializer}" + (f" of {row.donor}" if row.donor else "")
                for row in born.itertuples()
            ],
            hovertemplate="%{text}<br>born at step %{x}<extra></extra>",
            name="birth",
            showlegend=False,
        )
    )
    drawn.update_layout(
        xaxis_title="steps",
        yaxis={"title": "index in the stack (0: bottom)", "dtick": 1},
        showlegend=False,
    )
    return drawn


def lines(locations: pd.DataFrame, ends: tuple[str, str], unit: str, size: int = 15) -> list[go.Scatter]:
    """Draw each layer as a line at its index.

    Args:
        locations: table of `pli_analysis.metrics.lineage`.
        ends: columns with the start and the end of each interval.
        unit: unit of these columns.
        size: of the layer ids at the end, in pixels.
    """
    import plotly.graph_objects as go

    drawn = []
    for layer, mine in locations.groupby(col.LAYER, sort=False):
        color = line_of(str(layer))["color"]
        drawn.append(
            go.Scatter(
                x=mine[list(ends)].to_numpy().ravel(),
                y=mine[col.INDEX].repeat(2),
                mode="lines+text",
                text=[""] * (2 * len(mine) - 1) + [f" {layer}"],
                textposition="middle right",
                textfont={"size": size, "color": color},
                cliponaxis=False,
                line={**line_of(str(layer)), "width": size // 3},
                name=layer,
                meta={"layer": layer},
                hovertemplate=f"layer {layer}<br>{unit} %{{x}}<br>index %{{y}}<extra></extra>",
            )
        )
    return drawn


def _donations(born: pd.DataFrame, locations: pd.DataFrame) -> go.Scatter:
    """Draw dotted lines from donors to their clones, at the step of birth."""
    import plotly.graph_objects as go

    indices = locations.rename(columns={col.INDEX: "index_"})
    index = {(row.layer, row.start_step): row.index_ for row in indices.itertuples()}
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row in born.itertuples():
        if (row.donor, row.birth_step) in index:
            xs += [row.birth_step, row.birth_step, None]
            ys += [index[(row.donor, row.birth_step)], row.index_y, None]
    style = {"color": NEUTRAL, "dash": "dot", "width": 2}
    return go.Scatter(x=xs, y=ys, mode="lines", line=style, name="cloned from", hoverinfo="skip", showlegend=False)

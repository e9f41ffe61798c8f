"""What linear probes read from each layer: accuracy, and what each layer adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures.layer_axis import shade_inserted
from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def accuracies(table: pd.DataFrame) -> go.Figure:
    """Draw the accuracy over layers, from the input of the first one to the top: one curve per label.

    Args:
        table: result of `pli_analysis.metrics.probing.probe.probe`.
    """
    drawn = _by_label(table, (col.ACCURACY, col.ACCURACY_LOW, col.ACCURACY_HIGH), "lines+markers", ".1%")
    shade_inserted(drawn, table, before=1)
    return drawn.update_layout(yaxis={"title": "accuracy", "tickformat": ".0%"})


def gains(table: pd.DataFrame) -> go.Figure:
    """Draw what each layer adds to the accuracy: one point per label and layer.

    Args:
        table: result of `pli_analysis.metrics.probing.probe.probe`.
    """
    layers = table[table[col.INDEX].notna()]
    drawn = _by_label(layers, (col.GAIN, col.GAIN_LOW, col.GAIN_HIGH), "markers", "+.1%")
    shade_inserted(drawn, layers)
    return drawn.update_layout(yaxis={"title": "change of the accuracy", "tickformat": "+.0%"}, scattermode="group")


def _by_label(table: pd.DataFrame, columns: tuple[str, str, str], mode: str, digits: str) -> go.Figure:
    """Draw a column with its interval over layers, one trace per label."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, (label, rows) in enumerate(table.groupby(col.LABEL, sort=False)):
        value, low, high = (rows[name] for name in columns)
        drawn.add_trace(
            go.Scatter(
                x=rows[col.LAYER],
                y=value,
                error_y={"array": high - value, "arrayminus": value - low, "thickness": 1, "width": 3},
                mode=mode,
                line=numbered_line(number),
                marker={"size": 7, "color": numbered_line(number)["color"]},
                name=str(label),
                hovertemplate=f"{label}, layer %{{x}}: %{{y:{digits}}}<extra></extra>",
            )
        )
    return drawn.update_layout(xaxis={"title": "layer, bottom to top", "type": "category"}, legend=LEGEND)

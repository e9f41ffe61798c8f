"""The figure of this report: the loss after an insertion minus that of the twin, by initializer and position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pli_analysis.figures.palette import LEGEND, NEUTRAL, numbered_line

if TYPE_CHECKING:
    import plotly.graph_objects as go

HERE = Path(__file__).parent
POSITIONS = {"300@0": "bottom", "300@3": "middle", "300@6": "top"}
INITIALIZERS = ["clone", "identity", "random"]


def figures() -> dict[str, go.Figure]:
    """Return file name → figure."""
    from plotly.subplots import make_subplots

    table = pd.read_csv(HERE / "curves.csv")
    table = table[(table["depth"] == 6) & (table["lr"] == 0.01) & (table["learning_rate"] == "none")]
    table = table.assign(change=table["loss"] - table["twin"], since=table["step"] - 300)
    drawn = make_subplots(1, 3, subplot_titles=INITIALIZERS, shared_yaxes=True)
    for column, initializer in enumerate(INITIALIZERS, 1):
        for number, (schedule, position) in enumerate(POSITIONS.items()):
            rows = table[(table["initializer"] == initializer) & (table["schedule"] == schedule)]
            over_seeds = rows.groupby("since")["change"]
            drawn.add_scatter(
                x=over_seeds.mean().index,
                y=over_seeds.mean(),
                mode="lines+markers",
                line=numbered_line(number),
                name=position,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        drawn.add_hline(0, line={"color": NEUTRAL, "width": 1}, row=1, col=column)
    drawn.update_layout(width=860, height=430, template="plotly_white", margin={"l": 70, "r": 30, "t": 40, "b": 110})
    drawn.update_layout(legend=LEGEND)
    drawn.update_xaxes(title="steps since the insertion")
    drawn.update_yaxes(title="loss − loss without insertion (nats per byte)", row=1, col=1)
    return {"disturbance.svg": drawn}

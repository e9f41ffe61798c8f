"""The figure of this report: loss, and robustness to the order of layers, over the probability of swaps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pli_analysis.figures.palette import LEGEND, numbered_line
from pli_analysis.metrics.comparison.group_difference import mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

HERE = Path(__file__).parent
NAMES = {"3-to-6": "3 to 6 layers", "depth-6": "6 layers"}
TITLES = {"loss": "loss at the end", "swapped": "loss change if two neighbors change places"}


def figures() -> dict[str, go.Figure]:
    """Return file name → figure."""
    from plotly.subplots import make_subplots

    runs = pd.read_csv(HERE / "runs.csv")
    drawn = make_subplots(1, 2, subplot_titles=list(TITLES.values()))
    for number, (group, rows) in enumerate(runs.groupby("group")):
        for column, name in enumerate(TITLES, 1):
            found = [(probability, *mean(of[name].to_numpy())) for probability, of in rows.groupby("probability")]
            shares, values, low, high = zip(*found, strict=True)
            drawn.add_scatter(
                x=[100 * share + number - 0.5 for share in shares],  # side by side
                y=values,
                error_y={
                    "array": [end - value for end, value in zip(high, values, strict=True)],
                    "arrayminus": [value - end for end, value in zip(low, values, strict=True)],
                },
                mode="lines+markers",
                line=numbered_line(number),
                name=NAMES[str(group)],
                showlegend=column == 1,
                row=1,
                col=column,
            )
    drawn.update_layout(width=860, height=430, template="plotly_white", margin={"l": 70, "r": 30, "t": 40, "b": 110})
    drawn.update_layout(legend=LEGEND)
    drawn.update_xaxes(title="share of steps with two layers swapped (%)")
    drawn.update_yaxes(title="nats per byte", row=1, col=1)
    return {"swap.svg": drawn}

"""The figure of this report: gradient norms over the first steps, and of each layer at the first step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pli_analysis.figures.palette import LEGEND, numbered_line

if TYPE_CHECKING:
    import plotly.graph_objects as go

HERE = Path(__file__).parent


def figures() -> dict[str, go.Figure]:
    """Return file name → figure."""
    from plotly.subplots import make_subplots

    total, first = (pd.read_csv(HERE / file) for file in ("norms.csv", "first.csv"))
    total = total[total["family"] == "llama"].assign(norm=lambda rows: rows["total"] ** 0.5)
    first = first[first["family"] == "llama"]
    drawn = make_subplots(1, 2, subplot_titles=("all parameters", "each layer at the first step"))
    for number, (depth, rows) in enumerate(total.groupby("depth")):
        style = {"line": numbered_line(number), "name": f"{depth} layers" if depth > 1 else "1 layer"}
        over_steps, by_index = rows.groupby("step")["norm"].mean(), first[first["depth"] == depth].groupby("index")
        drawn.add_scatter(x=over_steps.index, y=over_steps, mode="lines", **style, row=1, col=1)
        norms = by_index["grad_norm"].mean()
        drawn.add_scatter(x=norms.index + 1, y=norms, mode="lines+markers", **style, showlegend=False, row=1, col=2)
    drawn.update_layout(width=860, height=430, template="plotly_white", margin={"l": 70, "r": 30, "t": 40, "b": 110})
    drawn.update_layout(legend=LEGEND)
    drawn.update_xaxes(title="step", type="log", dtick=1, row=1, col=1)
    drawn.update_xaxes(title="position in the stack, from the bottom", dtick=1, row=1, col=2)
    drawn.update_yaxes(title="gradient norm (mean of six seeds)", rangemode="tozero", row=1, col=1)
    drawn.update_yaxes(rangemode="tozero", row=1, col=2)
    return {"norms.svg": drawn}

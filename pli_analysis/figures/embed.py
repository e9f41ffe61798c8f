"""A map of a run: the path of each part from its birth on, dotted lines from donors, and a random walk beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.figures.palette import NEUTRAL, line_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"pca": "PC", "tsne": "t-SNE ", "umap": "UMAP "}
TITLES = {"run": "the run", "random": "a random walk with the same births and steps"}
MOST_NAMED = 40
"""Parts up to which each has its name at its end."""


def figure(
    table: pd.DataFrame, method: str, shares: dict[str, tuple[float, float]] | None = None, donors: bool = True
) -> go.Figure:
    """The map, or two of them side by side.

    Args:
        table: of `pli_analysis.metrics.embed`.
        method: `pca`, `tsne` or `umap`.
        shares: for PCA: `run` and `random` → shares of the variance that x and y have.
        donors: whether dotted lines lead from donors to clones.
    """
    from plotly.subplots import make_subplots

    walks = list(dict.fromkeys(table["walk"]))
    titles = [TITLES[walk] for walk in walks] if len(walks) > 1 else None
    drawn = make_subplots(cols=len(walks), subplot_titles=titles, horizontal_spacing=0.08)
    for column, walk in enumerate(walks, 1):
        mine = table[table["walk"] == walk]
        if donors:
            drawn.add_trace(_donations(mine), row=1, col=column)
        few = mine["part"].nunique() <= MOST_NAMED
        for part, rows in mine.groupby("part", sort=False):
            drawn.add_trace(_path(str(part), rows, few), row=1, col=column)
        for axis, number in (("xaxis", 0), ("yaxis", 1)):
            share = f", {shares[walk][number]:.0%} of the variance" if shares and walk in shares else ""
            title = f"{NAMES[method]}{number + 1}{share}"
            drawn.layout[f"{axis}{'' if column == 1 else column}"].title = {"text": title}
        if method == "pca":
            drawn.update_yaxes(scaleanchor=f"x{'' if column == 1 else column}", row=1, col=column)
    drawn.update_layout(showlegend=False, height=520, margin={"l": 60, "r": 30, "t": 40, "b": 50})
    return drawn


def _path(part: str, rows: pd.DataFrame, named: bool) -> go.Scatter:
    """One part's points in the order of steps: a ring at birth, its name at the end."""
    import plotly.graph_objects as go

    style = line_of(rows["layer"].iloc[0])
    birth = rows["birth"].tolist()
    return go.Scatter(
        x=rows["x"],
        y=rows["y"],
        mode="lines+markers+text" if named else "lines+markers",
        text=[""] * (len(rows) - 1) + [f" {part}"],
        textposition="middle right",
        textfont={"size": 14, "color": style["color"]},
        cliponaxis=False,
        line={**style, "width": 1.5},
        marker={
            "size": [11 if first else 4 for first in birth],
            "symbol": ["circle-open" if first else "circle" for first in birth],
            "color": style["color"],
            "line": {"width": [2.5 if first else 0 for first in birth]},
        },
        name=part,
        meta={"layer": rows["layer"].iloc[0]},
        customdata=rows[["step", "age"]].to_numpy(),
        hovertemplate=f"{part}, step %{{customdata[0]}} (age %{{customdata[1]}})<extra></extra>",
    )


def _donations(table: pd.DataFrame) -> go.Scatter:
    """Dotted lines from donors to their clones, at the clones' first checkpoint."""
    import plotly.graph_objects as go

    place = {(row.part, row.checkpoint): (row.x, row.y) for row in table.itertuples()}
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row in table[table["birth"]].itertuples():
        if (row.donor, row.checkpoint) in place:
            x, y = place[(row.donor, row.checkpoint)]
            xs += [x, row.x, None]
            ys += [y, row.y, None]
    style = {"color": NEUTRAL, "dash": "dot", "width": 2}
    return go.Scatter(x=xs, y=ys, mode="lines", line=style, name="cloned from", hoverinfo="skip")

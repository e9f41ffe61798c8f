"""Map of a run: the path of each part, and a random walk for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_analysis.figures.palette import NEUTRAL, line_of
from pli_analysis.figures.views import plain

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
AXES = {"pca": "PC", "tsne": "t-SNE ", "umap": "UMAP "}
TITLES = {"run": "this run", "random": "a random walk with the same steps"}
MOST_NAMED = 40
"""Maximum number of parts whose names are drawn at the ends of their paths."""


def figure(
    table: pd.DataFrame,
    methods: Sequence[str],
    shares: dict[str, tuple[float, float]] | None = None,
    donors: bool = True,
) -> go.Figure:
    """Draw the map of the run, beside that of the random walk if there is one; one view per method.

    Args:
        table: result of `pli_analysis.metrics.maps.embedding`.
        methods: `pca`, `tsne` or `umap`; the first one is drawn at first.
        shares: for PCA, `run` and `random` → shares of the variance of x and y.
        donors: whether to draw dotted lines from donors to clones.
    """
    from plotly.subplots import make_subplots

    walks = list(dict.fromkeys(table[col.WALK]))
    titles = [TITLES[walk] for walk in walks] if len(walks) > 1 else None
    drawn = make_subplots(cols=len(walks), subplot_titles=titles, horizontal_spacing=0.08)
    for column, walk in enumerate(walks, 1):
        mine = table[table[col.WALK] == walk]
        if donors:
            drawn.add_trace(_donations(mine, methods), row=1, col=column)
        few = mine[col.PART].nunique() <= MOST_NAMED
        for part, rows in mine.groupby(col.PART, sort=False):
            drawn.add_trace(_path(str(part), rows, methods, few), row=1, col=column)
        drawn.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    by_view = {method: {"name": NAMES[method], "layout": _titles(method, walks, shares or {})} for method in methods}
    drawn.update_layout(_titles(methods[0], walks, shares or {}))
    drawn.update_annotations(font_size=14)
    drawn.update_layout(
        showlegend=False,
        height=520,
        margin={"l": 60, "r": 30, "t": 40, "b": 50},
        meta={"views": by_view} | ({"narrow": _stacked(drawn)} if len(walks) > 1 else {}),
    )
    return drawn


def _titles(method: str, walks: Sequence[str], shares: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the axis titles of all maps, as changes to the layout."""
    layout = {}
    for column, walk in enumerate(walks, 1):
        for number, axis in enumerate(("xaxis", "yaxis")):
            share = f", {shares[walk][number]:.0%} of the variance" if method == "pca" and walk in shares else ""
            title = f"{AXES[method]}{number + 1}{share}"
            layout[f"{axis}{column if column > 1 else ''}"] = {"title": {"text": title}}
    return layout


def _stacked(drawn: go.Figure) -> dict[str, Any]:
    """Return the layout for a narrow page: one map above the other."""
    above, below = [0.58, 1.0], [0.0, 0.42]
    titles = [title.to_plotly_json() | {"x": 0.5} for title in drawn.layout.annotations]
    whole = {"domain": [0.0, 1.0]}
    return {
        "xaxis": whole,
        "yaxis": {"domain": above},
        "xaxis2": whole,
        "yaxis2": {"domain": below},
        "annotations": [title | {"y": top} for title, (_, top) in zip(titles, (above, below), strict=True)],
        "height": 760,
    }


def _path(part: str, rows: pd.DataFrame, methods: Sequence[str], named: bool) -> go.Scatter:
    """Draw the points of a part in the order of steps: a ring at birth, the name at the end."""
    import plotly.graph_objects as go

    style = line_of(rows[col.LAYER].iloc[0])
    birth = rows[col.IS_BIRTH].tolist()
    by_view = {method: at | {"textposition": outwards(**at)} for method, at in _points_of(rows, methods).items()}
    return go.Scatter(
        x=rows[col.X],
        y=rows[col.Y],
        mode="lines+markers+text" if named else "lines+markers",
        text=[""] * (len(rows) - 1) + [f" {part} "],
        textposition=by_view[methods[0]]["textposition"],
        textfont={"size": 14, "color": style["color"]},
        cliponaxis=False,
        line={**style, "width": 1.5},
        marker={
            "size": [11 if first else 4 for first in birth[:-1]] + [11 if birth[-1] else 7],
            "symbol": ["circle-open" if first else "circle" for first in birth],
            "color": style["color"],
            "line": {"width": [2.5 if first else 0 for first in birth]},
        },
        name=part,
        meta={"layer": rows[col.LAYER].iloc[0], "views": by_view},
        customdata=rows[[col.STEP, col.AGE]].to_numpy(),
        hovertemplate=f"{part} at step %{{customdata[0]}} (age %{{customdata[1]}})<extra></extra>",
    )


def _donations(table: pd.DataFrame, methods: Sequence[str]) -> go.Scatter:
    """Draw dotted lines from donors to their clones, at the clones' first checkpoint."""
    import pandas as pd
    import plotly.graph_objects as go

    position = table.set_index([col.PART, col.CHECKPOINT])[
        [axis for method in methods for axis in _columns(method, methods)]
    ]
    gap = pd.Series(float("nan"), position.columns)
    ends = []
    for birth in table[table[col.IS_BIRTH]].itertuples():
        donor, clone = (birth.donor, birth.checkpoint), (birth.part, birth.checkpoint)
        if donor in position.index:
            ends += [position.loc[donor], position.loc[clone], gap]
    lines = pd.DataFrame(ends, columns=position.columns, dtype=float)
    return go.Scatter(
        x=lines[col.X],
        y=lines[col.Y],
        mode="lines",
        line={"color": NEUTRAL, "dash": "dot", "width": 2},
        name="cloned from",
        meta={"views": _points_of(lines, methods)},
        hoverinfo="skip",
    )


def _points_of(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Return the coordinates of a table's points by each method."""
    columns = {method: _columns(method, methods) for method in methods}
    return {method: {"x": plain(table[x]), "y": plain(table[y])} for method, (x, y) in columns.items()}


def outwards(x: Sequence[float], y: Sequence[float]) -> str:
    """Return the position of the name at the end of a path: on the side away from the path."""
    right, up = x[-1] - sum(x) / len(x), y[-1] - sum(y) / len(y)
    level = "middle" if abs(up) <= abs(right) / 2 else "top" if up > 0 else "bottom"
    side = "center" if abs(right) < abs(up) / 2 else "right" if right >= 0 else "left"
    return f"{level} {side}"


def _columns(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return the columns with the coordinates of a method."""
    return (col.X, col.Y) if method == methods[0] else (col.of_method(col.X, method), col.of_method(col.Y, method))

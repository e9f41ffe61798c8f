"""Figures for print: text in points, thin lines, one view, heat maps as vector squares, and nothing to click."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.figures.palette import LEGEND, label_every

if TYPE_CHECKING:
    import plotly.graph_objects as go

INCH, POINT = 96.0, 4 / 3
"""Pixels per inch and per point: plotly's pixels are those of CSS."""
FAMILY = "Arial, Helvetica, Liberation Sans, sans-serif"
TITLE, TEXT = 8 * POINT, 7 * POINT
"""Font sizes, in pixels: of the titles of axes and names in the drawing, and of all other text."""
INK, GRID = "#1a1a1a", "#e3e3e3"
THINNER = 0.7
"""Factor from the widths and sizes of lines and markers on a page to those in print."""
NARROW = 5 * INCH
"""Width below which panels are stacked, and color bars are above heat maps: a column of a page with two columns."""
SHAPE, NARROW_SHAPE = 0.42, 0.68
"""Height ÷ width of a figure without a height of its own."""
PAGE, NARROW_PAGE = 1000, 420
"""Width on a page for which figures choose their own height, in pixels."""
TALLEST = 6 * INCH
"""Maximum height of a heat map, in pixels."""
ROW, LEGEND_ROW = 1.25 * TEXT, 19
"""Height of a row of a heat map with its name, and of a legend, in pixels."""
AROUND = 50
"""Height below a drawing, or width beside it, of names and title of an axis, in pixels."""
LETTER, KEY = 0.52, 46
"""Mean width of a letter ÷ font size, and width of a line with its gaps in a legend, in pixels."""
MARKER = 4
"""Size of markers that have none of their own, in pixels."""
BAR, BAR_HEIGHT = 9, 38
"""Thickness of a color bar, and height of one with its title and ticks, in pixels."""
_BAR = {
    "thickness": BAR,
    "len": 1.0,
    "ypad": 0,
    "outlinewidth": 0,
    "ticks": "outside",
    "ticklen": 2,
    "tickfont": {"size": TEXT},
}
SQUARES = 4000
"""Maximum number of squares of a heat map that are drawn as vectors; a larger one is an image, one pixel per square."""


def printed(drawing: go.Figure, width: float, view: str | None = None) -> dict[str, Any]:
    """Return a figure as it is printed: data and layout for plotly.

    Args:
        drawing: a figure of this package; it is not changed.
        width: in pixels (96 per inch).
        view: key of the view to draw, if the figure has several (see `views`); default: the first.
    """
    layout, narrow = drawing.layout.to_plotly_json(), width < NARROW
    # Without a uid, a trace gets a random one, which would be in the file.
    traces = [trace.to_plotly_json() | {"uid": str(number)} for number, trace in enumerate(drawing.data)]
    layout.pop("template", None)
    meta, metas = layout.pop("meta", {}), [trace.pop("meta", {}) for trace in traces]
    if view is not None:
        layout = changed(layout, meta["views"][view]["layout"])
        traces = [changed(trace, own["views"][view]) for trace, own in zip(traces, metas, strict=True)]
    if layout.get("showlegend") is not False:
        layout["legend"] = LEGEND | {"tracegroupgap": 0}
    if narrow:
        layout = changed(layout, _for_print(meta))
        traces = [changed(trace, _for_print(own)) for trace, own in zip(traces, metas, strict=True)]
    if traces[0]["type"] == "heatmap":
        trace, layout = _map(traces[0], layout, width)
        return {"data": [trace], "layout": layout}
    traces = [_of_print(trace) for trace in traces]
    return {"data": traces, "layout": _sized(layout, traces, width)}


def changed(whole: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layout or trace with some parts changed: of an axis or marker only the attributes that are given."""
    parts = {name: {**whole.get(name, {}), **own} if isinstance(own, Mapping) else own for name, own in changes.items()}
    return {**whole, **parts}


def _for_print(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes for a narrow page except those that make room for a color bar or drop the legend."""
    narrow = meta.get("narrow", {})
    dropped = {"showlegend", "colorbar", *(("margin", "xaxis") if "margin" in narrow else ())}
    return {name: own for name, own in narrow.items() if name not in dropped}


def _of_print(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trace with thinner lines, smaller markers and the font of print."""
    parts = ("line", "marker", "error_x", "error_y")
    thin = {**trace, **{name: _thin(trace[name]) for name in parts if name in trace}}
    if "markers" in trace.get("mode", ""):
        thin["marker"] = {"size": MARKER, **thin.get("marker", {})}
    return thin | ({"textfont": {**trace.get("textfont", {}), "size": TITLE}} if "text" in trace else {})


def _thin(style: Mapping[str, Any]) -> dict[str, Any]:
    """Return the style of a line, marker or error bar with smaller widths and sizes."""
    sizes = {name: style[name] for name in ("width", "size", "thickness") if name in style}
    thin = {name: (np.asarray(size) * THINNER).tolist() for name, size in sizes.items()}
    return {**style, **thin, **({"line": _thin(style["line"])} if "line" in style else {})}


def _sized(layout: Mapping[str, Any], traces: Sequence[Mapping[str, Any]], width: float) -> dict[str, Any]:
    """Return the layout of a figure with a legend below it, with its height and with titles that fit."""
    narrow, own = width < NARROW, layout.get("height")
    names = [trace["name"] for trace in traces if trace.get("name") and trace.get("showlegend", True)]
    if layout.get("showlegend") is False or len(traces) < 2:
        names = []
    height = own * width / (NARROW_PAGE if narrow else PAGE) if own else width * (NARROW_SHAPE if narrow else SHAPE)
    sized = _themed(layout) | {"width": width, "height": round(height + _legend_height(names, width))}
    for axis in (name for name in sized if name[:5] == "yaxis"):
        share = np.ptp(sized[axis].get("domain", (0, 1)))
        sized[axis]["title"]["text"] = _wrapped(sized[axis]["title"].get("text", ""), share * (height - AROUND))
    return sized


def _legend_height(names: Sequence[str], width: float) -> float:
    """Return the height of a horizontal legend: plotly puts the names into columns as wide as the longest."""
    if not names:
        return 0.0
    each = [KEY + LETTER * TEXT * len(name) for name in names]
    columns = max(int((width - AROUND) // max(each)), 1) if sum(each) > width - AROUND else len(each)
    return LEGEND_ROW * -(-len(each) // columns)


def _wrapped(title: str, room: float) -> str:
    """Return a title of at most two lines, the second one if the title is longer than the room for it, in pixels."""
    if LETTER * TITLE * len(title) <= room or " " not in title:
        return title
    spaces = [position for position, letter in enumerate(title) if letter == " "]
    middle = min(spaces, key=lambda position: abs(position - len(title) / 2))
    return f"{title[:middle]}<br>{title[middle + 1 :]}"


def _themed(layout: Mapping[str, Any], above: float = 0.0) -> dict[str, Any]:
    """Return a layout with the fonts, colors and margins of print, and with so many pixels more at the top."""
    themed = {
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": FAMILY, "size": TEXT, "color": INK},
        **layout,
        "margin": {"l": 6, "r": 10, "t": above + (18 if layout.get("annotations") else 8), "b": 6},
    }
    for name in {"xaxis", "yaxis"} | {name for name in layout if name[1:5] == "axis"}:
        themed[name] = _axis(layout.get(name, {}))
    if "annotations" in layout:
        themed["annotations"] = [{**note, "font": {"size": TEXT}} for note in layout["annotations"]]
    if "shapes" in layout:
        themed["shapes"] = [{**shape, "line": _thin(shape.get("line", {}))} for shape in layout["shapes"]]
    return themed


def _axis(own: Mapping[str, Any]) -> dict[str, Any]:
    line = {"showline": True, "linecolor": INK, "linewidth": 0.7, "zerolinecolor": GRID, "zerolinewidth": 0.7}
    ticks = {"ticks": "outside", "ticklen": 3, "tickwidth": 0.7, "tickcolor": INK, "tickfont": {"size": TEXT}}
    title = {**own.get("title", {}), "font": {"size": TITLE}, "standoff": 5}
    return {"gridcolor": GRID, "gridwidth": 0.5, "automargin": True, **line, **ticks, **own, "title": title}


# --- heat maps ------------------------------------------------------------------------------------------------------


def _map(trace: Mapping[str, Any], layout: Mapping[str, Any], width: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a heat map in print as a trace and a layout: squares as shapes, and a trace that is only its color bar.

    A browser draws a heat map as an image with the resolution of a screen; squares are sharp in print.
    """
    narrow, rows, columns = width < NARROW, len(trace["y"]), len(trace["x"])
    around = AROUND + (BAR_HEIGHT if narrow else 0)
    lowest = width * (NARROW_SHAPE if narrow else SHAPE)
    height = round(min(max(around + ROW * rows, lowest), max(TALLEST, lowest)))
    layout = _themed(layout, BAR_HEIGHT if narrow else 0.0) | {"width": width, "height": height}
    bar = _above(trace["colorbar"], layout, height) if narrow else _beside(trace["colorbar"])
    most = (width - 2 * AROUND) / (LETTER * TEXT * (2 + max(map(len, trace["x"]))))
    layout["xaxis"] |= _ticks(trace["x"], most)
    layout["yaxis"] |= _ticks(trace["y"], (height - around) / ROW)
    layout["yaxis"]["title"]["text"] = _wrapped(layout["yaxis"]["title"].get("text", ""), height - around)
    if rows * columns > SQUARES:
        return {**trace, "xgap": 0, "ygap": 0, "colorbar": bar}, layout
    values = np.asarray(trace["z"], dtype=float)
    low, high = trace.get("zmin", np.nanmin(values)), trace.get("zmax", np.nanmax(values))
    colors = _colors((values - low) / ((high - low) or 1), trace["colorscale"])
    layout["shapes"] = _squares(values, colors, bool(trace.get("xgap"))) + layout.get("shapes", [])
    for axis, names in (("xaxis", trace["x"]), ("yaxis", trace["y"])):
        layout[axis] |= {"categoryarray": list(names), "categoryorder": "array", "range": [-0.5, len(names) - 0.5]}
    scale = {"colorscale": trace["colorscale"], "cmin": low, "cmax": high, "color": [low], "showscale": True}
    empty = {"x": [None], "y": [None], "uid": trace["uid"]}
    return {"type": "scatter", "mode": "markers", **empty, "marker": {**scale, "colorbar": bar}}, layout


def _ticks(names: Sequence[str], most: float) -> dict[str, list[str]]:
    """Return at most so many of the names on an axis, evenly spaced, as its ticks."""
    return {"tickvals": list(names[:: label_every(len(names), max(int(most), 1))])}


def _squares(values: np.ndarray, colors: list[list[str]], gaps: bool) -> list[dict[str, Any]]:
    """Return a rectangle for each value: with white lines between them, or with a little overlap."""
    half, line = (0.5, {"width": THINNER, "color": "white"}) if gaps else (0.52, {"width": 0})
    return [
        {
            "type": "rect",
            "x0": column - half,
            "x1": column + half,
            "y0": row - half,
            "y1": row + half,
            "fillcolor": colors[row][column],
            "line": line,
        }
        for row, column in np.argwhere(np.isfinite(values)).tolist()
    ]


def _beside(bar: Mapping[str, Any]) -> dict[str, Any]:
    """Return a color bar beside the map."""
    return {**bar, **_BAR, "xpad": 6, "title": {**bar["title"], "font": {"size": TITLE}}}


def _above(bar: Mapping[str, Any], layout: dict[str, Any], height: float) -> dict[str, Any]:
    """Return a color bar above the map; its title becomes that of the layout.

    The layout has a margin for it: plotly makes room for a bar, but only after it has placed the titles of the axes.
    """
    place = {"x": 0.5, "xref": "paper", "xanchor": "center", "y": 1, "yref": "container", "yanchor": "top"}
    layout["title"] = {"text": bar["title"]["text"], "font": {"size": TITLE}, "pad": {"t": 3}, **place}
    top = {"y": 1 - 1.7 * TITLE / height, "yref": "container", "yanchor": "top"}
    return {**bar, **_BAR, "orientation": "h", "x": 0.5, "xpad": 0, **top, "title": None}


def _colors(shares: np.ndarray, scale: Sequence[tuple[float, str]]) -> list[list[str]]:
    """Return the color of each share of a color scale (clipped to 0 … 1), as CSS."""
    at = [position for position, _ in scale]
    channels = np.array([[int(color[first : first + 2], 16) for first in (1, 3, 5)] for _, color in scale])
    drawn = np.stack([np.interp(shares, at, channel) for channel in channels.T], axis=-1)
    drawn = np.nan_to_num(drawn).round().astype(int)
    return [[f"rgb({red},{green},{blue})" for red, green, blue in row] for row in drawn.tolist()]

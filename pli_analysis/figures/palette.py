"""Colors, one per layer id in every figure, distinguishable for color-blind readers."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's colors without black and yellow, which vanish on a dark or a light page, and two of Paul Tol's.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#AA3377", "#999933")
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#808080"
SEQUENTIAL = "Cividis"
"""Color scale for amounts; its lightness rises steadily, for any kind of color vision."""
MOST_ON_NARROW = 4
"""Events that a narrow page has room to name."""
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
"""A line of names at the foot, clear of the axis title however narrow the page."""


def label_every(count: int, most: int) -> int:
    """Of how many one is named, where there is room for so many names.

    >>> label_every(9, most=4), label_every(0, most=4)
    (3, 1)
    """
    return max(-(-count // most), 1)


def color_bar(title: str, **ticks: Any) -> dict[str, Any]:
    """What a heat map says of its colors: a bar beside it, on a narrow page one below it (see `bar_below`)."""
    below = LEGEND | {"x": 0.5, "thickness": 12, **ticks}
    return {
        "colorbar": {"title": {"text": title, "side": "right"}, **ticks},
        "meta": {"narrow": {"colorbar": below}},
    }


def bar_below(axis: str, title: str) -> dict[str, Any]:
    """Meta of the layout of such a heat map: room for the bar, whose title follows that of the axis above it."""
    margin = {"l": 60, "r": 16, "t": 30, "b": 115}
    return {"narrow": {"margin": margin, "xaxis": {"title": {"text": f"{axis}<br>colors: {title}"}}}}


def number_of(layer: str) -> int:
    """The place in order of birth that a layer id stands for, from 0.

    >>> [number_of(id) for id in ("a", "z", "aa")]
    [0, 25, 26]
    """
    number = 0
    for letter in layer:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def line_of(layer: str) -> dict[str, Any]:
    """The line style of a layer: eight colors, then the same dashed, dotted and dash-dotted."""
    number = number_of(layer)
    return {"color": COLORS[number % len(COLORS)], "dash": DASHES[number // len(COLORS) % len(DASHES)]}

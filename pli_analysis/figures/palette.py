"""Colors, one per layer id in every figure, distinguishable for color-blind readers."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's colors except black and yellow, which are invisible on dark or light pages, and two of Paul Tol's.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#AA3377", "#999933")
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#808080"
SEQUENTIAL = "Cividis"
"""Sequential color scale whose lightness increases steadily, readable with any color vision."""
MOST_ON_NARROW = 4
"""Maximum number of events named on a narrow page."""
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
"""A horizontal legend at the bottom, below the axis title on narrow pages too."""


def label_every(count: int, most: int) -> int:
    """Return n such that labelling every n-th of `count` items gives at most `most` labels.

    >>> label_every(9, most=4), label_every(0, most=4)
    (3, 1)
    """
    return max(-(-count // most), 1)


def color_bar(title: str, **ticks: Any) -> dict[str, Any]:
    """Return a heat map's color bar: beside the map, or below it on a narrow page (see `bar_below`)."""
    below = LEGEND | {"x": 0.5, "thickness": 12, **ticks}
    return {
        "colorbar": {"title": {"text": title, "side": "right"}, **ticks},
        "meta": {"narrow": {"colorbar": below}},
    }


def bar_below(axis: str, title: str) -> dict[str, Any]:
    """Return layout meta for a narrow page: space for the color bar, with its title in the axis title."""
    margin = {"l": 60, "r": 16, "t": 30, "b": 115}
    return {"narrow": {"margin": margin, "xaxis": {"title": {"text": f"{axis}<br>colors: {title}"}}}}


def number_of(layer: str) -> int:
    """Return the position of a layer id in order of birth, from 0.

    >>> [number_of(id) for id in ("a", "z", "aa")]
    [0, 25, 26]
    """
    number = 0
    for letter in layer:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def line_of(layer: str) -> dict[str, Any]:
    """Return the line style of a layer."""
    return numbered_line(number_of(layer))


def numbered_line(number: int) -> dict[str, Any]:
    """Return the line style number `number`, from 0: eight colors, then the same dashed, dotted and dash-dotted."""
    return {"color": COLORS[number % len(COLORS)], "dash": DASHES[number // len(COLORS) % len(DASHES)]}

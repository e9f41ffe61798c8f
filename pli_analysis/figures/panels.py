"""Several panels in one figure: two side by side, or one on a narrow page."""

from __future__ import annotations

from typing import Any

PANEL, GAP = 260, 80
"""Height of a panel with the gap below it, and of the gap, in pixels."""


def panels(count: int, columns: int, height: int = PANEL) -> dict[str, Any]:
    """Return the domains of the axes of panels in a grid, as a layout, and its height.

    Args:
        height: of a panel with the gap below it, in pixels.
    """
    columns = min(columns, count)
    rows, gap = -(-count // columns), 0.12
    whole = rows * height + GAP
    space = GAP / whole
    deep = (1 - space * (rows - 1)) / rows
    wide = (1 - gap * (columns - 1)) / columns
    layout: dict[str, Any] = {"height": whole}
    for number in range(count):
        row, column = divmod(number, columns)
        left, top = column * (wide + gap), 1 - row * (deep + space)
        layout[f"xaxis{suffix(number + 1)}"] = {"domain": [left, left + wide]}
        layout[f"yaxis{suffix(number + 1)}"] = {"domain": [max(top - deep, 0.0), top]}
    return layout


def suffix(number: int) -> str:
    """Return the suffix of the names of plotly's axes: empty for the first."""
    return str(number) if number > 1 else ""

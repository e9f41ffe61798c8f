"""Several views of one figure, with buttons to switch.

The layout's `meta["views"]` names them, the one that is drawn first first: view → `name` on its button and `layout`,
what it changes of each part of the layout. Each trace's `meta["views"]` has what it changes of the trace: view → `x`,
`y` and whatever else is another one there.

The layout's `meta["narrow"]` is what a narrow page changes of each part of the layout, a trace's what it changes of the
trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BARE: dict[str, Any] = {"narrow": {"showlegend": False}}
"""Meta of a layout whose traces are layers: where room is short the page's buttons of layers are its legend."""


def axes(titles: Mapping[str, str]) -> dict[str, Any]:
    """Meta of a layout whose views differ in the horizontal axis: view → its title."""
    views = {view: {"name": title, "layout": {"xaxis": {"title": {"text": title}}}} for view, title in titles.items()}
    return {"views": views}


def along(values: Mapping[str, Iterable[float]]) -> dict[str, Any]:
    """Meta of a trace of such a drawing: view → its x."""
    return {"views": {view: {"x": plain(xs)} for view, xs in values.items()}}


def plain(values: Iterable[float]) -> list[float]:
    """Numbers to eight digits, more than a screen shows; steps stay whole."""
    return [float(f"{value:.8g}") for value in values]

"""One drawing in several views, between which the page has a row of buttons.

The layout's `meta["views"]` names them, the one that is drawn first first: view → `name` on its button and `layout`,
what it changes of each part of the layout. Each trace's `meta["views"]` has its points in each: view → `x`, and `y`
where that changes too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def axes(titles: Mapping[str, str]) -> dict[str, Any] | None:
    """Meta of a layout whose views differ in the horizontal axis: view → its title. None where there is but one."""
    if len(titles) < 2:
        return None
    views = {view: {"name": title, "layout": {"xaxis": {"title": {"text": title}}}} for view, title in titles.items()}
    return {"views": views}


def along(values: Mapping[str, Iterable[float]]) -> dict[str, Any]:
    """Meta of a trace of such a drawing: view → its x."""
    return {"views": {view: {"x": plain(xs)} for view, xs in values.items()}}


def plain(values: Iterable[float]) -> list[float]:
    """Numbers to eight digits, more than a screen shows; steps stay whole."""
    return [float(f"{value:.8g}") for value in values]

"""Several views of one figure, with buttons to switch.

`meta["views"]` of the layout maps each view, the first one being drawn at first, to its `name` on the button and to
`layout`, its changes to the layout. `meta["views"]` of a trace maps each view to its changes to the trace: `x`, `y` and
other attributes.

`meta["narrow"]` of the layout or of a trace has the changes for a narrow page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

BARE: dict[str, Any] = {"narrow": {"showlegend": False}}
"""Layout meta of figures whose traces are layers: on a narrow page the layer buttons replace the legend."""


def axes(titles: Mapping[str, str]) -> dict[str, Any]:
    """Return layout meta for views that differ in the horizontal axis, given view → axis title."""
    views = {view: {"name": title, "layout": {"xaxis": {"title": {"text": title}}}} for view, title in titles.items()}
    return {"views": views}


def along(values: Mapping[str, Iterable[float]]) -> dict[str, Any]:
    """Return trace meta for such views, given view → x."""
    return {"views": {view: {"x": plain(xs)} for view, xs in values.items()}}


def plain(values: Iterable[float]) -> list[float]:
    """Round numbers to eight significant digits, more than a screen resolves; steps stay integers."""
    return [float(f"{value:.8g}") for value in values]

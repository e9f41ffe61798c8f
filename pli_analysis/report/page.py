"""Render a report as one HTML file that opens offline.

Everything that comes from a run is escaped by the template or as JSON. A content-security policy names the hashes of
the two scripts that belong to the page, so that nothing else runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.tables import Format, cell, render
from pli_train.core import output

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.report.parts import Figure, Report

ROWS = 40
"""Rows of a table shown on the page; the CSV beside it has all."""


def write(report: Report, path: Path) -> None:
    """Render a report into a file. Raises as `output.write`."""
    output.write(path, html(report))


def html(report: Report, version: str | None = None) -> str:
    """The page as text.

    Args:
        version: of a page that is served while the run trains: it asks its server for `/version` now and then, and
            loads anew when that is another.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("pli_analysis", "report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly, script = _plotly(), _asset("page.js")
    poll = "" if version is None else _asset("served.js")
    return environment.get_template("page.html").render(
        report=report,
        data=lambda figure: Markup(embed(payload(figure))),
        csv=lambda name, table: Markup(embed({"name": name, "csv": render(table, Format.CSV)})),
        sample=sample,
        cell=cell,
        style=Markup(_asset("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        version=version,
        poll=Markup(poll),
        policy=policy(plotly, script, *filter(None, [poll])) + ("; connect-src 'self'" if poll else ""),
    )


def payload(figure: Figure) -> dict[str, Any]:
    """What the page's script needs of a figure: the drawing, and its table as CSV."""
    drawing = figure.drawing
    drawing.layout.template = None  # the page brings its own, light or dark
    return {"name": figure.id, "drawing": json.loads(drawing.to_json()), "csv": render(figure.table, Format.CSV)}


def embed(value: Any) -> str:
    r"""JSON that cannot end the script element it stands in.

    >>> embed("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def sample(table: pd.DataFrame) -> pd.DataFrame:
    """At most ROWS rows of a table, evenly spread, the first and the last among them."""
    if len(table) <= ROWS:
        return table
    return table.iloc[[round(position * (len(table) - 1) / (ROWS - 1)) for position in range(ROWS)]]


def policy(*scripts: str) -> str:
    """The page's content-security policy: these scripts, its own styles and images, nothing from anywhere."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (files("pli_analysis") / "report" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    # Plotly's own bundle of what we draw, a third of the one that its Python package brings: a page opens in half the
    # time, and is the same bytes whatever release is installed.
    return _asset("plotly-cartesian.min.js").replace("</script", "<\\/script")

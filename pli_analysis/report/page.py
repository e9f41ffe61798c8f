"""Render a report as one HTML file that opens offline.

The template or the JSON encoding escapes everything that comes from a run. The content-security policy allows only the
page's own scripts, by their hashes.
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
    from jinja2 import Template

    from pli_analysis.report.parts import Figure, Report

ROWS = 40
"""Maximum number of table rows on the page; the CSV has all rows."""


def write(report: Report, path: Path) -> None:
    """Write a report to an HTML file. Raises the errors of `output.write`."""
    output.write(path, html(report))


def html(report: Report, version: str | None = None) -> str:
    """Render a report as HTML.

    Args:
        report: the report.
        version: version of a page that is served while the run trains. The page polls `/version` and reloads when the
            version changes.
    """
    from markupsafe import Markup

    plotly, script = _plotly(), _asset("page.js")
    has_heads = any(section.view for section in report.sections)
    heads = _asset("head_view.js") if has_heads else ""
    poll = "" if version is None else _asset("served.js")
    return _template().render(
        report=report,
        data=lambda figure: Markup(embed(payload(figure))),
        view=lambda view: Markup(embed(view.data)),
        csv=lambda name, table: Markup(embed({"name": name, "csv": render(table, Format.CSV)})),
        sample=sample,
        cell=cell,
        style=Markup(_asset("page.css") + (_asset("head_view.css") if has_heads else "")),
        plotly=Markup(plotly),
        script=Markup(script),
        heads=Markup(heads),
        version=version,
        poll=Markup(poll),
        policy=policy(plotly, script, *filter(None, [heads, poll])) + ("; connect-src 'self'" if poll else ""),
    )


def payload(figure: Figure) -> dict[str, Any]:
    """Return what the page's script needs for a figure: the drawing, and its table as CSV."""
    drawing = figure.drawing
    drawing.layout.template = None  # page.js sets the colors, light or dark
    return {"name": figure.id, "drawing": json.loads(drawing.to_json()), "csv": render(figure.table, Format.CSV)}


def embed(value: Any) -> str:
    r"""Encode a value as JSON that cannot close the script element around it.

    >>> embed("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def sample(table: pd.DataFrame) -> pd.DataFrame:
    """Return at most ROWS rows of a table, evenly spaced, including the first and the last."""
    if len(table) <= ROWS:
        return table
    return table.iloc[[round(position * (len(table) - 1) / (ROWS - 1)) for position in range(ROWS)]]


def policy(*scripts: str) -> str:
    """Return the content-security policy: only these scripts, inline styles and embedded images; no network."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (files("pli_analysis") / "report" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("pli_analysis", "report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


@cache
def _plotly() -> str:
    # Plotly's "cartesian" bundle is a third of the one in its Python package: the page opens in half the time, and does
    # not depend on the installed release.
    return _asset("plotly-cartesian.min.js").replace("</script", "<\\/script")

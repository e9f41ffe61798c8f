"""Print rows as a terminal table, JSON, CSV or Markdown.

A table here is a list of dicts with the same keys; a missing value is None or NaN. It knows neither pandas nor numpy.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """How a table is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


def render(rows: Sequence[dict[str, Any]], format: Format) -> str:
    """Rows as text, closed by a newline. Missing values are empty; JSON is a list of records with null.

    >>> print(render([{"event": 1, "kl": 0.25, "donor": None}], Format.CSV), end="")
    event,kl,donor
    1,0.25,
    """
    rows = [{name: None if value != value else value for name, value in row.items()} for row in rows]
    names = list(rows[0]) if rows else []
    if format is Format.JSON:
        import json

        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    if format is Format.CSV:
        import csv

        text = io.StringIO()
        written = csv.DictWriter(text, names, lineterminator="\n")
        written.writeheader()
        written.writerows(rows)
        return text.getvalue()
    numbers = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    return drawn(names, numbers, [[cell(value) for value in row.values()] for row in rows], format is Format.MD)


def cell(value: object) -> str:
    """One value as people read it: six significant digits, nothing for missing.

    >>> cell(0.1234567), cell(None), cell("a|b")
    ('0.123457', '', 'a|b')
    """
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def drawn(names: Sequence[str], numbers: Sequence[bool], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """A table in characters, closed by a newline.

    Args:
        names: of the columns.
        numbers: which columns are set to the right.
        rows: their cells.
        markdown: a Markdown table, whose cells' bars are escaped, instead of one for a terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for name, number in zip(names, numbers, strict=True):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(text.replace("|", "\\|") if markdown else text) for text in row))
    # Wide enough for any table: what reads our output may be a file or a pipe, which has no width.
    # It is no terminal either, as lines and boxes would depend on it: the stream knows what to do without Unicode.
    console = Console(width=100_000, color_system=None, file=io.StringIO())
    text = "".join(segment.text for segment in console.render(table))
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line) + "\n"

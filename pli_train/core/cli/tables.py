"""Print rows as a terminal table, JSON, CSV, Markdown or LaTeX.

A table is a list of dicts with the same keys; a missing value is None or NaN. This module needs no pandas or numpy.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pli_train.core.cli.latex import tabular


class Format(StrEnum):
    """Output format of a table."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"


def render(rows: Sequence[dict[str, Any]], format: Format) -> str:
    """Return rows as text that ends with a newline. Missing values are empty, or null in a JSON list of records.

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
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    cells = [[cell(value) for value in row.values()] for row in rows]
    if format is Format.LATEX:
        return tabular(names, cells)
    numbers = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    return drawn(names, numbers, cells, format is Format.MD)


def cell(value: object) -> str:
    """Return a value as text: six significant digits, empty if missing.

    >>> cell(0.1234567), cell(None), cell("a|b")
    ('0.123457', '', 'a|b')
    """
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def drawn(names: Sequence[str], numbers: Sequence[bool], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Return a table drawn in characters, ending with a newline.

    Args:
        names: names of the columns.
        numbers: whether each column is right-aligned.
        rows: cells of each row.
        markdown: draw a Markdown table, with `|` in cells escaped, instead of one for a terminal.
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
    # The width fits any table, because a file or a pipe has no width. The console is not a terminal, because boxes
    # would depend on its encoding: the output stream replaces characters that it lacks.
    console = Console(width=100_000, color_system=None, file=io.StringIO())
    text = "".join(segment.text for segment in console.render(table))
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line) + "\n"

"""Tables on their way out: for a terminal, as JSON, CSV or Markdown; to stdout or a file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = {".json": "json", ".csv": "csv", ".md": "md"}


class Format(StrEnum):
    """How a table is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


def emit(table: pd.DataFrame, format: Format | None, out: Path | None) -> None:
    """Write a table to a file, or to stdout. The format left open is the file's ending, else `table`.

    Raises:
        BadInput: when the file cannot be written.
    """
    chosen = format or Format(ENDINGS.get(out.suffix if out else "", "table"))
    text = render(table, chosen)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


def render(table: pd.DataFrame, format: Format) -> str:
    """A table as text, closed by a newline. Missing values are empty; JSON is a list of records with null."""
    if format is Format.JSON:
        import json

        records = table.astype(object).where(table.notna(), None).to_dict(orient="records")
        return json.dumps(records, indent=1, ensure_ascii=False, default=lambda value: value.item()) + "\n"
    if format is Format.CSV:
        return table.to_csv(index=False, lineterminator="\n")
    return _drawn(table, markdown=format is Format.MD)


def cell(value: object) -> str:
    """One value as people read it: six significant digits, nothing for missing."""
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _drawn(table: pd.DataFrame, markdown: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for name in table.columns:
        drawn.add_column(str(name), justify="right" if table[name].dtype.kind in "iufb" else "left", no_wrap=True)
    for row in table.itertuples(index=False):
        cells = (cell(value) for value in row)
        drawn.add_row(*(Text(text.replace("|", "\\|") if markdown else text) for text in cells))
    # Wide enough for any table: what reads our output may be a file or a pipe, which has no width.
    console = Console(width=100_000, color_system=None, file=sys.stdout)
    with console.capture() as captured:
        console.print(drawn)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"

"""Tables on their way out: for a terminal, as JSON, CSV or Markdown; to stdout or a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train import rows
from pli_train.errors import BadInput
from pli_train.rows import Format

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = {".json": "json", ".csv": "csv", ".md": "md"}


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

    return "" if value is pd.NA else rows.cell(value)


def _drawn(table: pd.DataFrame, markdown: bool) -> str:
    numbers = [table[name].dtype.kind in "iufb" for name in table.columns]
    cells = [[cell(value) for value in row] for row in table.itertuples(index=False)]
    return rows.drawn([str(name) for name in table.columns], numbers, cells, markdown)

"""Write tables: terminal, JSON, CSV, Markdown, Parquet."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core import output
from pli_train.core.cli import tables
from pli_train.core.cli.console import timed
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Format(StrEnum):
    """How a table is written: as in `rows`, which knows no libraries of tables, and as Parquet."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    PARQUET = "parquet"


ENDINGS = {".txt": "table", ".json": "json", ".csv": "csv", ".md": "md", ".parquet": "parquet"}


def format_of(format: Format | None, out: Path | None) -> Format:
    """How a table is written: as was asked for, else as the file's ending says, else as on a terminal.

    Args:
        format: what was asked for.
        out: the file; None for stdout.

    Raises:
        BadInput: when the ending is an unknown one, or Parquet is to be printed or lacks its library.
    """
    ending = "" if out is None else out.suffix.lower()
    if format is None and ending and ending not in ENDINGS:
        raise BadInput(f"{out}: {ending} is none of {', '.join(ENDINGS)}: name another file, or say --format too")
    chosen = format or Format(ENDINGS.get(ending, "table"))
    if chosen is Format.PARQUET and out is None:
        raise BadInput("--format parquet: is no text, so give it a file: -o FILE.parquet")
    if chosen is Format.PARQUET and find_spec("pyarrow") is None:
        raise BadInput("--format parquet: needs the `parquet` extra: pip install 'pli[parquet]'")
    return chosen


def emit(table: pd.DataFrame, format: Format | None, out: Path | None, whole: bool = False) -> None:
    """Write a table to a file, or to stdout.

    Args:
        table: to be written.
        format: how; see `format_of`.
        out: the file.
        whole: no cell is missing, so that NaN is a value: see `render`.

    Raises:
        BadInput: as `format_of`.
        BadInput, PliError: as `output.write`.
    """
    chosen = format_of(format, out)
    with timed(f"{len(table)} × {len(table.columns)} as {chosen}"):
        put(parquet(table, whole) if chosen is Format.PARQUET else render(table, chosen, whole), out)


def put(data: str | bytes, out: Path | None) -> None:
    """Write to a file, or text to stdout: there as its encoding allows. Raises as `output.write`."""
    if isinstance(data, str) and out in (None, output.STDOUT):
        print(data, end="")
    elif out is not None:
        output.write(out, data)


def render(table: pd.DataFrame, format: Format, whole: bool = False) -> str:
    """A table as text, closed by a newline.

    Missing values are empty; JSON is a list of records with null, and has infinity as the words that TensorBoard's
    downloads have: "Infinity" and "-Infinity". In a `whole` table no cell is missing, and NaN is written too: as `nan`,
    and in JSON as "NaN". Python's `float` takes all of these back.
    """
    if format is Format.JSON:
        import json

        columns = [_plain(table[name], whole) for name in table.columns]
        records = [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]
        return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if format is Format.CSV:
        return table.to_csv(index=False, lineterminator="\n", na_rep="nan" if whole else "")
    return _drawn(table, format is Format.MD, whole)


def parquet(table: pd.DataFrame, whole: bool = False) -> bytes:
    """A table as a Parquet file. Missing values are null; in a `whole` table NaN stays NaN."""
    import io

    import pyarrow
    from pyarrow import parquet as files

    columns = {name: pyarrow.array(table[name].to_numpy(), from_pandas=not whole) for name in table.columns}
    data = io.BytesIO()
    files.write_table(pyarrow.table(columns), data)
    return data.getvalue()


def cell(value: object) -> str:
    """One value as people read it: six significant digits, nothing for missing."""
    import pandas as pd

    return "" if value is pd.NA else tables.cell(value)


def _plain(column: pd.Series, whole: bool) -> list[object]:
    """A column's values as JSON has them."""
    import numpy as np

    values: np.ndarray = column.astype(object).to_numpy(copy=True)
    values[column.isna()] = "NaN" if whole else None
    if column.dtype.kind == "f":
        values[np.isposinf(column)], values[np.isneginf(column)] = "Infinity", "-Infinity"
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _drawn(table: pd.DataFrame, markdown: bool, whole: bool) -> str:
    numbers = [table[name].dtype.kind in "iufb" for name in table.columns]
    cells = [[cell(value) or ("nan" if whole else "") for value in row] for row in table.itertuples(index=False)]
    return tables.drawn([str(name) for name in table.columns], numbers, cells, markdown)

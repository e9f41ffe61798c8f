"""Write tables: terminal, JSON, CSV, Markdown, LaTeX, Parquet."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core import output
from pli_train.core.cli import tables
from pli_train.core.cli.console import timed
from pli_train.core.cli.latex import tabular
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Format(StrEnum):
    """Output format of a table: those of `pli_train.core.cli.tables`, and Parquet."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"
    PARQUET = "parquet"


ENDINGS = {".txt": "table", ".json": "json", ".csv": "csv", ".md": "md", ".tex": "latex", ".parquet": "parquet"}


def format_of(format: Format | None, out: Path | None) -> Format:
    """Return the output format: the given one, or else that of the file's ending, or else `table`.

    Args:
        format: the format given by the user, if any.
        out: the output file; None for stdout.

    Raises:
        BadInput: if the ending is unknown, Parquet would be written to stdout, or its library is missing.
    """
    ending = "" if out is None else out.suffix.lower()
    if format is None and ending and ending not in ENDINGS:
        raise BadInput(f"{out}: unknown file ending {ending}; use one of {', '.join(ENDINGS)}, or give --format")
    chosen = format or Format(ENDINGS.get(ending, "table"))
    if chosen is Format.PARQUET and out is None:
        raise BadInput("--format parquet: is a binary format; write it to a file with -o FILE.parquet")
    if chosen is Format.PARQUET and find_spec("pyarrow") is None:
        raise BadInput("--format parquet: needs the `parquet` extra; install it with: pip install 'pli[parquet]'")
    return chosen


def emit(table: pd.DataFrame, format: Format | None, out: Path | None, whole: bool = False) -> None:
    """Write a table to a file, or to stdout.

    Args:
        table: the table.
        format: output format: see `format_of`.
        out: output file; None for stdout.
        whole: whether no cell is missing, so that NaN is a value: see `render`.

    Raises:
        BadInput: as `format_of`.
        BadInput, PliError: as `output.write`.
    """
    chosen = format_of(format, out)
    with timed(f"{len(table)} × {len(table.columns)} as {chosen}"):
        put(parquet(table, whole) if chosen is Format.PARQUET else render(table, chosen, whole), out)


def put(data: str | bytes, out: Path | None) -> None:
    """Write data to a file, or print text to stdout in its encoding. Raises as `output.write`."""
    if isinstance(data, str) and out in (None, output.STDOUT):
        print(data, end="")
    elif out is not None:
        output.write(out, data)


def render(table: pd.DataFrame, format: Format, whole: bool = False) -> str:
    """Format a table as text that ends with a newline.

    Missing values are empty, and null in JSON, which is a list of records. Infinity in JSON is the string "Infinity" or
    "-Infinity", as in TensorBoard's downloads. In a `whole` table no cell is missing, and NaN is written as `nan`, in
    JSON as "NaN". Python's `float` parses all of these.
    """
    if format is Format.JSON:
        import json

        columns = [_plain(table[name], whole) for name in table.columns]
        records = [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]
        return json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if format is Format.CSV:
        return table.to_csv(index=False, lineterminator="\n", na_rep="nan" if whole else "")
    names = [str(name) for name in table.columns]
    cells = [[cell(value) or ("nan" if whole else "") for value in row] for row in table.itertuples(index=False)]
    if format is Format.LATEX:
        return tabular(names, cells)
    numbers = [table[name].dtype.kind in "iufb" for name in table.columns]
    return tables.drawn(names, numbers, cells, format is Format.MD)


def parquet(table: pd.DataFrame, whole: bool = False) -> bytes:
    """Format a table as a Parquet file. Missing values are null; in a `whole` table NaN remains NaN."""
    import io

    import pyarrow
    from pyarrow import parquet as files

    columns = {name: pyarrow.array(table[name].to_numpy(), from_pandas=not whole) for name in table.columns}
    data = io.BytesIO()
    files.write_table(pyarrow.table(columns), data)
    return data.getvalue()


def cell(value: object) -> str:
    """Format one value for display: six significant digits, empty if missing."""
    import pandas as pd

    return "" if value is pd.NA else tables.cell(value)


def _plain(column: pd.Series, whole: bool) -> list[object]:
    """Return a column's values as JSON values."""
    import numpy as np

    values: np.ndarray = column.astype(object).to_numpy(copy=True)
    values[column.isna()] = "NaN" if whole else None
    if column.dtype.kind == "f":
        values[np.isposinf(column)], values[np.isneginf(column)] = "Infinity", "-Infinity"
    return [value.item() if isinstance(value, np.generic) else value for value in values]

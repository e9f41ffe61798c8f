"""Tables on their way out: for a terminal, as JSON, CSV, Markdown or Parquet; to stdout or a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train import rows
from pli_train.errors import BadInput
from pli_train.telling import timed

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


ENDINGS = {".json": "json", ".csv": "csv", ".md": "md", ".parquet": "parquet"}


def emit(table: pd.DataFrame, format: Format | None, out: Path | None, whole: bool = False) -> None:
    """Write a table to a file, or to stdout. The format left open is the file's ending, else `table`.

    Args:
        table: to be written.
        format: how.
        out: the file.
        whole: no cell is missing, so that NaN is a value: see `render`.

    Raises:
        BadInput: when the file cannot be written, or Parquet is to go to stdout or lacks its library.
    """
    chosen = format or Format(ENDINGS.get(out.suffix if out else "", "table"))
    if chosen is Format.PARQUET and out is None:
        raise BadInput("--format parquet: is no text, so give it a file: -o FILE.parquet")
    with timed(f"{len(table)} × {len(table.columns)} as {chosen}"):
        put(parquet(table, whole) if chosen is Format.PARQUET else render(table, chosen, whole), out)


def put(data: str | bytes, out: Path | None) -> None:
    """Write to a file, or text to stdout. Raises BadInput when the file cannot be written."""
    if out is None:
        print(data, end="")
        return
    try:
        out.write_bytes(data if isinstance(data, bytes) else data.encode())
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None


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
    """A table as a Parquet file. Missing values are null; in a `whole` table NaN stays NaN.

    Raises:
        BadInput: when pyarrow is not installed.
    """
    import io

    try:
        import pyarrow
        from pyarrow import parquet as files
    except ImportError:
        raise BadInput("--format parquet: needs the `parquet` extra: pip install 'pli[parquet]'") from None
    columns = {name: pyarrow.array(table[name].to_numpy(), from_pandas=not whole) for name in table.columns}
    data = io.BytesIO()
    files.write_table(pyarrow.table(columns), data)
    return data.getvalue()


def cell(value: object) -> str:
    """One value as people read it: six significant digits, nothing for missing."""
    import pandas as pd

    return "" if value is pd.NA else rows.cell(value)


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
    return rows.drawn([str(name) for name in table.columns], numbers, cells, markdown)

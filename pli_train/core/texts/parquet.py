"""Read documents from Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, first_line
from pli_train.core.texts.columns import FIRST, Columns, cleaned, kind_of
from pli_train.core.texts.file_types import ends_of

if TYPE_CHECKING:
    from pli_train.core.texts.file_types import File

ROWS = 1024
"""Rows read at a time; Parquet may keep a larger row group in memory."""


def texts(file: File) -> Iterator[str]:
    """Yield the text of each row; empty if it has none. Raises NoText and BadInput."""
    if ends_of(file.path)[1]:
        raise BadInput(f"{file.path}: compressed Parquet files are not read: decompress the file")
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise BadInput(f"{file.path}: reading Parquet needs pyarrow: pip install 'pli[parquet]'") from None
    try:
        with ParquetFile(file.path) as table:
            columns = _columns(table, file.column)
            name = columns.chosen(file.column, file.path, file.option)
            top, *inner = [name] if name in table.schema_arrow.names else name.split(".")
            for batch in table.iter_batches(ROWS, columns=[name]):
                values: Any = batch.column(top)
                for field in inner:
                    values = values.flatten()[values.type.get_field_index(field)]  # null if the structure is null
                yield from (cleaned(text or "") for text in values.to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{file.path}: not readable as Parquet ({first_line(error)})") from None


def _columns(table: Any, wanted: str) -> Columns:
    """Return the kind of each column, also within structures; read the first rows if `wanted` is missing."""
    from pyarrow import types

    columns = Columns()
    texts: list[str] = []

    def visit(prefix: str, fields: Any) -> None:
        for field in fields:
            name, kind = prefix + field.name, field.type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
                texts.append(name)
                columns.add(name, "single words", inner=bool(prefix))
            else:
                columns.add(name, str(kind).partition("<")[0], inner=bool(prefix))
            if types.is_struct(kind):
                visit(f"{name}.", kind)

    visit("", table.schema_arrow)
    outer = [name for name in texts if name in table.schema_arrow.names]
    if wanted not in texts and outer:
        first = next(table.iter_batches(FIRST, columns=outer), None)
        for row in [] if first is None else first.to_pylist():
            for name, value in row.items():
                columns.add(name, kind_of(value))
    return columns

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
"""Rows in memory at a time; what Parquet keeps together may be more."""


def texts(file: File) -> Iterator[str]:
    """The text of each row; empty where it has none. Raises NoText and BadInput."""
    if ends_of(file.path)[1]:
        raise BadInput(f"{file.path}: Parquet is compressed inside, and is read only as it is: decompress the file")
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
                found: Any = batch.column(top)
                for field in inner:
                    found = found.flatten()[found.type.get_field_index(field)]  # a null above is one here too
                yield from (cleaned(text or "") for text in found.to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{file.path}: not readable as Parquet ({first_line(error)})") from None


def _columns(table: Any, wanted: str) -> Columns:
    """What each column holds, those within structures too; by its first rows where the one asked for is not there."""
    from pyarrow import types

    found = Columns()
    texts: list[str] = []

    def visit(prefix: str, fields: Any) -> None:
        for field in fields:
            name, kind = prefix + field.name, field.type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
                texts.append(name)
                found.add(name, "single words", inner=bool(prefix))
            else:
                found.add(name, str(kind).partition("<")[0], inner=bool(prefix))
            if types.is_struct(kind):
                visit(f"{name}.", kind)

    visit("", table.schema_arrow)
    outer = [name for name in texts if name in table.schema_arrow.names]
    if wanted not in texts and outer:
        first = next(table.iter_batches(FIRST, columns=outer), None)
        for row in [] if first is None else first.to_pylist():
            for name, value in row.items():
                found.add(name, kind_of(value))
    return found

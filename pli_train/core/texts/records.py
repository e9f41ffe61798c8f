"""Read documents from JSON Lines, JSON, CSV and TSV files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput
from pli_train.core.texts.columns import FIRST, Columns, cleaned, kind_of
from pli_train.core.texts.file_types import ends_of
from pli_train.core.texts.streams import LONGEST, characters, lines_of

if TYPE_CHECKING:
    from pathlib import Path

    from pli_train.core.texts.file_types import File

Located = tuple[str, Any]
"""The location of a record in words, e.g. `line 3`, and the record."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
LONGEST_NAME = 40
"""Maximum characters of a column's name; a longer one looks like text."""
DEEPEST = 4
"""Maximum depth of nested columns."""


# --- JSON -----------------------------------------------------------------------------------------------------------


def of_lines(file: File) -> Iterator[str]:
    """Yield the text of each line's record; empty if it has none. Raises NoText and BadInput."""
    return _texts(file, _objects(file.path))


def of_json(file: File) -> Iterator[str] | None:
    """Return the texts of a `.json` file's records: a list, concatenated values, or one record with the column.

    Return None for other content, which is read as plain text. Raises NoText and BadInput.
    """
    try:
        first, *more = islice(_values(file.path), 2)
    except (_NotJson, ValueError):
        return None
    if not isinstance(first[1], dict | str) or (
        not more and not _is_list(file.path) and not _has(first[1], file.column)
    ):
        return None
    return _texts(file, _values(file.path))


def _objects(path: Path) -> Iterator[Located]:
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            location = f"line {number}"
            try:
                yield location, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}: {location} is not JSON ({error})") from None


class _NotJson(BadInput):
    """A file that is not valid JSON from some point on."""


def _values(path: Path) -> Iterator[Located]:
    """Yield the elements of a list, or concatenated values, without reading the whole file at once."""
    stream, held, at, number = characters(path), "", 0, 0
    is_list = between = False
    while True:
        at = _SPACE.match(held, at).end()  # type: ignore[union-attr]  # it matches an empty text too
        sign = held[at : at + 1]
        if is_list and sign == "]":
            return
        if (sign == "[" and not number and not is_list) or (sign == "," and between):
            is_list, between, at = True, False, at + 1
            continue
        parsed = _value(held, at)
        if parsed is not None and is_list and between:
            raise _NotJson(f"{path}: expected a comma after record {number}")
        if parsed is not None:
            number, between = number + 1, is_list
            yield f"record {number}", parsed[0]
            at = parsed[1]
            continue
        # Doubling the text keeps the time linear in the length of a value.
        more = _more(stream, len(held) - at)
        if not more and (sign or is_list):
            raise _NotJson(f"{path}: is not JSON after record {number}")
        if not more:
            return
        if len(held) - at > LONGEST:
            raise _NotJson(f"{path}: has a value of more than {LONGEST} characters, too long for a record")
        held, at = held[at:] + more, 0


def _more(stream: Iterator[str], least: int) -> str:
    texts: list[str] = []
    for text in stream:
        texts.append(text)
        least -= len(text)
        if least <= 0:
            break
    return "".join(texts)


def _value(text: str, at: int) -> tuple[Any, int] | None:
    """Return the JSON value at a position of a text, and its end; None if it is incomplete or invalid.

    Only lists, objects and strings mark their end: a number at the end of the text may be incomplete.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return (value, end) if end < len(text) or isinstance(value, dict | list | str) else None


def _is_list(path: Path) -> bool:
    head = next((text.lstrip() for text in characters(path) if text.strip()), "")
    return head.startswith("[")


def _has(record: Any, column: str) -> bool:
    return isinstance(record, dict) and isinstance(_inner(record, column), str)


# --- tables of text -------------------------------------------------------------------------------------------------


def of_table(file: File) -> Iterator[str]:
    """Yield the text of each row of a CSV or TSV file with a header row. Raises NoText and BadInput."""
    return _texts(file, _table(file), _kind_of_text)


def odd_header(file: File) -> list[str]:
    """Return a line about a text column whose name looks like text: the header row may be missing.

    Raises NoText and BadInput, as `of_table` does.
    """
    first = list(islice(_table(file), FIRST))
    name = _column(file, first, _kind_of_text) if first else ""
    if name == file.column or not (len(name) > LONGEST_NAME or " " in name.strip()):
        return []
    short = " ".join(name.split())
    short = short if len(short) <= LONGEST_NAME else f"{short[:LONGEST_NAME]}…"
    return [f"{file.path}: its first row names the text column '{short}'; if that is text, add a header row"]


def _table(file: File) -> Iterator[Located]:
    """Return the rows of a CSV or TSV file as records."""
    csv.field_size_limit(LONGEST)
    head = next((line for line in lines_of(file.path) if line.strip()), "")
    between = "\t" if ends_of(file.path)[0] == ".tsv" else next((sign for sign in ",;\t|" if sign in head), ",")
    # Texts have commas and semicolons, so files with these delimiters use quotes; other delimiters may avoid them.
    quoted = between in ",;" or _is_quoted(file.path, between)
    return _rows(file.path, between, quoted)


def _is_quoted(path: Path, between: str) -> bool:
    """Return whether quotes are CSV quoting, and not characters of the texts."""
    try:
        for _ in _rows(path, between, quoted=True):
            pass
    except BadInput:
        return False
    return True


def _rows(path: Path, between: str, quoted: bool) -> Iterator[Located]:
    how: Any = {"delimiter": between, "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, "strict": True}
    reader = csv.reader(lines_of(path), **how)
    line = 1
    try:
        names: list[str] = next((row for row in reader if any(row)), [])
        line = reader.line_num + 1
        for row in reader:
            if len(row) > len(names):
                raise BadInput(f"{path}: line {line} has {len(row)} columns, but the first row names {len(names)}")
            line = reader.line_num + 1
            if row:
                yield f"line {line - 1}", {name: value or None for name, value in zip(names, row, strict=False)}
    except csv.Error as error:
        raise BadInput(f"{path}: not valid CSV from line {line} on ({error})") from None


# --- records of any format ------------------------------------------------------------------------------------------


def _texts(file: File, records: Iterable[Located], kind: Callable[[Any], str] | None = None) -> Iterator[str]:
    """Yield the text of each record, from the column chosen by the first records. A record may also be a string.

    Args:
        file: the file of the records.
        records: the records with their locations.
        kind: function that returns the kind of a value, for formats that write all values as text.
    """
    located = iter(records)
    first = list(islice(located, FIRST))
    if first and isinstance(first[0][1], str):
        yield from (cleaned(text) for _, text in _all(str, file, chain(first, located)))
        return
    column = _column(file, first, kind) if first else ""
    for location, record in _all(dict, file, chain(first, located)):
        text = _inner(record, column)
        if not isinstance(text, str | None):
            raise BadInput(f"{file.path}: {location} has {kind_of(text)} in '{column}', expected text")
        yield cleaned(text or "")


def _column(file: File, first: list[Located], kind: Callable[[Any], str] | None) -> str:
    """Return the column that holds the text, chosen by the first records."""
    columns = Columns(loose=kind is not None)
    for _, record in _all(dict, file, first):
        _add(columns, "", record, kind or kind_of)
    return columns.chosen(file.column, file.path, file.option)


def _all(kind: type, file: File, records: Iterable[Located]) -> Iterator[Located]:
    """Yield the records; raise BadInput if one is not of the given type."""
    for location, record in records:
        if not isinstance(record, kind):
            expected = "text" if kind is str else "a table"
            raise BadInput(f"{file.path}: {location} is {kind_of(record)}, expected {expected}")
        yield location, record


def _add(columns: Columns, prefix: str, record: dict[str, Any], kind: Callable[[Any], str]) -> None:
    for name, value in record.items():
        columns.add(f"{prefix}{name}", kind(value), inner=bool(prefix))
        if isinstance(value, dict) and prefix.count(".") < DEEPEST:
            _add(columns, f"{prefix}{name}.", value, kind)


def _inner(record: dict[str, Any], column: str) -> Any:
    """Return the value of a column, which may be nested: `a.b`."""
    if column in record:
        return record[column]
    top, _, rest = column.partition(".")
    inside = record.get(top) if rest else None
    return _inner(inside, rest) if isinstance(inside, dict) else None


def _kind_of_text(value: str | None) -> str:
    """Return the kind of a value in a CSV file."""
    if value is None:
        return "null"
    try:
        float(value)
    except ValueError:
        return kind_of(value)
    return "a number"

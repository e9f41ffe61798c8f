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
"""Where a record is, in words, and the record."""
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
LONGEST_NAME = 40
"""Characters of a column's name, at most; what is longer looks like a text."""
DEEPEST = 4
"""Names in that of a column within columns."""


# --- JSON -----------------------------------------------------------------------------------------------------------


def of_lines(file: File) -> Iterator[str]:
    """The text of each line's record; empty where it has none. Raises NoText and BadInput."""
    return _texts(file, _objects(file.path))


def of_json(file: File) -> Iterator[str] | None:
    """The text of each record of a `.json` file: a list of them, one after the other, or one that has the column.

    None where it holds something else, which is a text like any other. Raises NoText and BadInput.
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
            position = f"line {number}"
            try:
                yield position, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInput(f"{path}: {position} is not JSON ({error})") from None


class _NotJson(BadInput):
    """A file that is no JSON from some place on."""


def _values(path: Path) -> Iterator[Located]:
    """The elements of a list, or values one after the other, without reading the whole file at once."""
    stream, held, at, number = characters(path), "", 0, 0
    is_list = between = False
    while True:
        at = _SPACE.match(held, at).end()  # type: ignore[union-attr]  # it matches nothing too
        sign = held[at : at + 1]
        if is_list and sign == "]":
            return
        if (sign == "[" and not number and not is_list) or (sign == "," and between):
            is_list, between, at = True, False, at + 1
            continue
        found = _value(held, at)
        if found is not None and is_list and between:
            raise _NotJson(f"{path}: has no comma after record {number}")
        if found is not None:
            number, between = number + 1, is_list
            yield f"record {number}", found[0]
            at = found[1]
            continue
        # Doubling what is read keeps the time in proportion to the length, however long one value is.
        more = _more(stream, len(held) - at)
        if not more and (sign or is_list):
            raise _NotJson(f"{path}: is not JSON after record {number}")
        if not more:
            return
        if len(held) - at > LONGEST:
            raise _NotJson(f"{path}: has a value of more than {LONGEST} characters, too long for a record")
        held, at = held[at:] + more, 0


def _more(stream: Iterator[str], least: int) -> str:
    found: list[str] = []
    for text in stream:
        found.append(text)
        least -= len(text)
        if least <= 0:
            break
    return "".join(found)


def _value(text: str, at: int) -> tuple[Any, int] | None:
    """The value at a place of a text, and where it ends; None where more has to be read, or nothing helps.

    Only lists, tables and strings end by themselves: a number at the end of what is read may go on.
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
    """The text of each row of a CSV or TSV file, whose first row names the columns. Raises NoText and BadInput."""
    return _texts(file, _table(file), _kind_of_text)


def odd_header(file: File) -> list[str]:
    """A line on a table whose text is in a column with a name like a text: the file may lack its row of names.

    Raises NoText and BadInput, as `of_table` does.
    """
    first = list(islice(_table(file), FIRST))
    name = _column(file, first, _kind_of_text) if first else ""
    if name == file.column or not (len(name) > LONGEST_NAME or " " in name.strip()):
        return []
    short = " ".join(name.split())
    short = short if len(short) <= LONGEST_NAME else f"{short[:LONGEST_NAME]}…"
    return [f"{file.path}: its first row names the column of the text '{short}'; if that is a text, put names above it"]


def _table(file: File) -> Iterator[Located]:
    """The rows of a CSV or TSV file, each as a record."""
    csv.field_size_limit(LONGEST)
    head = next((line for line in lines_of(file.path) if line.strip()), "")
    between = "\t" if ends_of(file.path)[0] == ".tsv" else next((sign for sign in ",;\t|" if sign in head), ",")
    # Commas are everywhere in texts, so that they are always quoted; other signs are chosen to do without.
    quoted = between in ",;" or _is_quoted(file.path, between)
    return _rows(file.path, between, quoted)


def _is_quoted(path: Path, between: str) -> bool:
    """Whether quotes are CSV's, and not just characters of the texts."""
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
                raise BadInput(f"{path}: line {line} has {len(row)} columns, and the first names {len(names)}")
            line = reader.line_num + 1
            if row:
                yield f"line {line - 1}", {name: value or None for name, value in zip(names, row, strict=False)}
    except csv.Error as error:
        raise BadInput(f"{path}: from line {line} on it is not CSV ({error})") from None


# --- what both share ------------------------------------------------------------------------------------------------


def _texts(file: File, records: Iterable[Located], kind: Callable[[Any], str] | None = None) -> Iterator[str]:
    """The text of each record, in the column that the first ones tell. Strings are texts by themselves.

    Args:
        kind: what a value is, where all are written as text.
    """
    locations = iter(records)
    first = list(islice(locations, FIRST))
    if first and isinstance(first[0][1], str):
        yield from (cleaned(text) for _, text in _all(str, file, chain(first, locations)))
        return
    column = _column(file, first, kind) if first else ""
    for position, record in _all(dict, file, chain(first, locations)):
        text = _inner(record, column)
        if not isinstance(text, str | None):
            raise BadInput(f"{file.path}: {position} has {kind_of(text)} in '{column}', where a text belongs")
        yield cleaned(text or "")


def _column(file: File, first: list[Located], kind: Callable[[Any], str] | None) -> str:
    """The column that holds the text, as the first records tell."""
    columns = Columns(loose=kind is not None)
    for _, record in _all(dict, file, first):
        _add(columns, "", record, kind or kind_of)
    return columns.chosen(file.column, file.path, file.option)


def _all(kind: type, file: File, records: Iterable[Located]) -> Iterator[Located]:
    """The records, each of which is to be of one kind."""
    for position, record in records:
        if not isinstance(record, kind):
            belongs = "text" if kind is str else "table"
            raise BadInput(f"{file.path}: {position} is {kind_of(record)}, where a {belongs} belongs")
        yield position, record


def _add(found: Columns, prefix: str, record: dict[str, Any], kind: Callable[[Any], str]) -> None:
    for name, value in record.items():
        found.add(f"{prefix}{name}", kind(value), inner=bool(prefix))
        if isinstance(value, dict) and prefix.count(".") < DEEPEST:
            _add(found, f"{prefix}{name}.", value, kind)


def _inner(record: dict[str, Any], column: str) -> Any:
    """The value of a column, which may lie within another: `a.b`."""
    if column in record:
        return record[column]
    top, _, rest = column.partition(".")
    inside = record.get(top) if rest else None
    return _inner(inside, rest) if isinstance(inside, dict) else None


def _kind_of_text(value: str | None) -> str:
    """What a value of a CSV file is, as which it is written."""
    if value is None:
        return "null"
    try:
        float(value)
    except ValueError:
        return kind_of(value)
    return "a number"

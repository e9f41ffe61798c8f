"""Read scalars from JSON Lines logs: one record per line, with a step and numbers.

Keys follow the rules of columns in CSV logs, see `csv_logs`. Lists, objects and booleans are no scalars.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.scalars import csv_logs
from pli_analysis.scalars.downloads import FIRST_LINE, LARGEST
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.scalars.reading import Scalars

ENDINGS = (".jsonl", ".ndjson")


def is_log(path: Path) -> bool:
    """Return whether the first line of a file is a record with a step."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline(FIRST_LINE).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and csv_logs.has_step(list(record))


def read(path: Path) -> dict[str, Scalars]:
    """Read the scalars of a log, as `csv_logs.read` does. Lines that are no records are skipped and reported.

    Raises:
        BadInput: when the file cannot be read, holds no records, or none of them has a step.
    """
    records, lost = _records(path)
    if not records:
        raise BadInput(f"{path}: has no records: each line of a log must be a JSON object with a step")
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [[_cell(record.get(name)) for name in names] for record in records]
    damaged = [f"{path}: {lost} line{'s' * (lost > 1)} without a JSON object"] if lost else []
    return csv_logs.scalars_of([csv_logs.Table(path, names, rows)], damaged)


def _records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the records in order, and the number of lines that are no records."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadInput(f"{path}: has {size} bytes, more than the maximum of {LARGEST} for a log")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    records, lost = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            lost += 1
    return records, lost


def _cell(value: Any) -> str:
    """Return a value as a table cell; empty if it is no scalar."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return ""
    return str(value)

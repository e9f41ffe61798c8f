"""Read scalars from CSV logs of Keras, Lightning and W&B.

One column has the step. Every other numeric column is a scalar, named in the header; an empty cell is a missing point.
A resumed process may append another header with other columns, which starts a new part of the file. W&B's export of a
chart has columns `RUN - TAG` of several runs, each with columns `RUN - TAG__MIN` and `RUN - TAG__MAX`.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.scalars.downloads import FIRST_LINE, LARGEST, is_download
from pli_analysis.scalars.events import Columns, sorted_by_step
from pli_analysis.scalars.reading import Scalars
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = (
    *("step", "_step", "global_step", "global step", "trainer/global_step", "train/global_step"),
    *("iteration", "iter", "epoch"),
)
"""Names of the step column, in order of preference."""
EPOCH = "epoch"
"""The step column whose numbers are epochs."""
WALL_TIMES = ("wall_time", "wall time", "_timestamp", "timestamp")
"""Names of a column with seconds since 1970."""
TABLE_OF_RUNS = (("name", "id"), ("name", "state"), ("name", "runtime"), ("name", "created"))
"""Lower-case column pairs that identify W&B's table of runs, which has one row per run and is no log."""
MISSING = ("", "na", "n/a", "none", "null")
"""Lower-case cells of missing points. A NaN is a point."""
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
BOUNDS = ("__MIN", "__MAX")
LONGEST = 2**17
"""Maximum number of characters of a cell."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: the file.
        names: column names.
        rows: rows of cells, one cell per name.
    """

    path: Path
    names: list[str]
    rows: list[list[str]]

    def column(self, position: int) -> list[str]:
        """Return the cells of one column."""
        return [row[position] for row in self.rows]


def is_log(path: Path) -> bool:
    """Return whether the header of a file has a step column or is that of a TensorBoard download."""
    try:
        with path.open("rb") as file:
            line = file.readline(FIRST_LINE).decode("utf-8-sig").strip("\r\n")
        names = next(csv.reader([line], delimiter=_delimiter(line)), [])
    except (OSError, UnicodeError, csv.Error):
        return False
    if _is_of_runs(names):
        return False
    return is_download(path) or (len(names) > 1 and _first_index(names, STEPS) is not None)


def read(path: Path) -> dict[str, Scalars]:
    """Read the scalars of a table.

    Returns:
        run name → scalars; the name is empty in a table of one run.

    Raises:
        BadInput: when the file cannot be read, or has no step column.
    """
    return scalars_of(*_read(path))


def has_step(names: Sequence[str]) -> bool:
    """Return whether one of the column names is that of a step column."""
    return _first_index(names, STEPS) is not None


def scalars_of(parts: Sequence[Table], damaged: Sequence[str]) -> dict[str, Scalars]:
    """Return the scalars in the parts of a table. If a step occurs twice, the later point counts.

    Args:
        parts: the parts in the order in which they were written.
        damaged: lines about data that was skipped before.

    Returns:
        As `read`.

    Raises:
        BadInput: when a part has no step column.
    """
    damaged = list(damaged)
    runs: dict[str, dict[str, Columns]] = {}
    by_epoch: dict[str, set[str]] = {}
    for part in parts:
        scalars, lines = _scalars(part)
        damaged += lines
        for (run, tag), points in scalars.items():
            known = runs.setdefault(run, {})
            if _counts_epochs(part):
                by_epoch.setdefault(run, set()).add(tag)
            pairs = zip(known[tag], points, strict=True) if tag in known else [[column] for column in points]
            known[tag] = sorted_by_step(Columns(*map(np.concatenate, pairs)))
    if damaged and not runs:
        return {"": Scalars({}, damaged)}
    return {run: Scalars(columns, damaged, frozenset(by_epoch.get(run, ()))) for run, columns in runs.items()}


def _scalars(table: Table) -> tuple[dict[tuple[str, str], Columns], list[str]]:
    """Return (run, tag) → points as logged, and a line for each column with cells that are skipped."""
    if _is_of_runs(table.names):
        raise BadInput(f"{table.path}: is a table with one row per run, not a log: export the charts of the runs")
    at = _first_index(table.names, STEPS)
    if at is None:
        named = ", ".join(repr(name) for name in table.names[:8])
        raise BadInput(f"{table.path}: has no step column, only {named}; export it over Step")
    steps, known = _steps(table, at)
    wall_times = _wall_times(table)
    found: dict[tuple[str, str], Columns] = {}
    damaged: list[str] = []
    text_lines: list[str] = []
    for position, name in enumerate(table.names):
        run, tag = _named(name, table.names)
        if position == at or tag is None:
            continue
        cells = table.column(position)
        values, there, wrong = _numbers(cells)
        if wrong:
            has_commas = _has_decimal_commas(cells)
            reason = " (a decimal comma? write 5.5 for 5,5)" if has_commas else ""
            line = f"{table.path}: {wrong} cell{'s' * (wrong > 1)} of {name!r} without a number{reason}"
            (damaged if there.any() or has_commas else text_lines).append(line)
        there &= known
        if there.any():
            found[run, tag] = Columns(steps[there], wall_times[there], values[there])
    return found, damaged if found else damaged + text_lines  # a text column matters only if there are no scalars


def _read(path: Path) -> tuple[list[Table], list[str]]:
    """Return the parts of a file, each with its own header, and a line about rows that are skipped."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadInput(f"{path}: has {size} bytes, more than the maximum of {LARGEST} for a table")
        text = path.read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        rows = [row for row in csv.reader(lines, delimiter=_delimiter(lines[0] if lines else "")) if row]
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    except csv.Error as error:
        raise BadInput(f"{path}: cannot be read as a table ({error})") from None
    if max((len(cell) for row in rows for cell in row), default=0) > LONGEST:  # csv's own limit is global
        raise BadInput(f"{path}: cannot be read as a table (a cell has more than {LONGEST:,} characters)")
    if not rows:
        raise BadInput(f"{path}: is empty")
    parts: list[Table] = []
    lost = 0
    for row in rows:
        if not parts or _begins(row, parts[-1].names):
            parts.append(Table(path, _header(path, row), []))
        elif len(row) == len(parts[-1].names):
            parts[-1].rows.append(row)
        else:
            lost += 1
    return parts, [f"{path}: {lost} row{'s' * (lost > 1)} with more or fewer cells than columns"] if lost else []


def _header(path: Path, row: Sequence[str]) -> list[str]:
    names = [name.strip() for name in row]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise BadInput(f"{path}: two columns are named {twice[0]!r}")
    return names


def _begins(row: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether a row is another header: it has the name of the step column again."""
    at = _first_index(names, STEPS)
    return at is not None and names[at] in (cell.strip() for cell in row)


def _delimiter(line: str) -> str:
    return max((",", ";", "\t"), key=line.count)


def _is_of_runs(names: Sequence[str]) -> bool:
    lower = {name.strip().lower() for name in names}
    return any(lower >= set(pair) for pair in TABLE_OF_RUNS)


def _first_index(names: Sequence[str], known: Sequence[str]) -> int | None:
    """Return the index of the first known name that occurs among the names."""
    lower = [name.strip().lower() for name in names]
    return next((lower.index(name) for name in known if name in lower), None)


def _counts_epochs(table: Table) -> bool:
    """Return whether the step column counts epochs."""
    at = _first_index(table.names, STEPS)
    return at is not None and table.names[at].lower() == EPOCH


def _named(name: str, names: Sequence[str]) -> tuple[str, str | None]:
    """Return the run and the tag of a column; None in place of the tag if it is no scalar."""
    for bound in BOUNDS:
        if name.endswith(bound) and name.removesuffix(bound) in names:
            return "", None
    if name.lower() in WALL_TIMES or not name:
        return "", None
    run, dash, tag = name.rpartition(" - ")
    if not dash or not all(name + bound in names for bound in BOUNDS):
        return "", name
    return run, None if tag.startswith("_") else tag


def _steps(table: Table, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the step of each row, and whether it has one. Raises BadInput when a step is not an integer."""
    steps, there, wrong = _numbers(table.column(at))
    whole = np.isfinite(steps) & (steps == np.rint(steps)) & (np.abs(steps) < 2**53)
    if wrong or not whole[there].all():
        raise BadInput(f"{table.path}: a step in column {table.names[at]!r} is not an integer")
    return np.where(there, steps, 0).astype(np.int64), there


def _wall_times(table: Table) -> np.ndarray:
    """Return the time of each row in seconds since 1970; NaN where it is missing."""
    at = _first_index(table.names, WALL_TIMES)
    return np.full(len(table.rows), np.nan) if at is None else _numbers(table.column(at))[0]


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Return whether all cells that are no numbers have a decimal comma."""
    wrong = [cell.strip() for cell in cells if not _is_number(cell) and cell.strip().lower() not in MISSING]
    return bool(wrong) and all(DECIMAL_COMMA.fullmatch(cell) for cell in wrong)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the cells as numbers, a mask of those that are numbers, and the count of other words."""
    values, there, wrong = np.full(len(cells), np.nan), np.zeros(len(cells), dtype=bool), 0
    for position, cell in enumerate(cells):
        if cell.strip().lower() in MISSING:
            continue
        try:
            values[position] = float(cell)
            there[position] = True
        except ValueError:
            wrong += 1
    return values, there, wrong

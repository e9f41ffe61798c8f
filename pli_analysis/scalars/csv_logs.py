"""Read scalars from CSV logs of Keras, Lightning and W&B.

One column has the step. Each other column of numbers is a scalar, named by the first line; an empty cell is no point. A
process that goes on with a file may write another first line, with other columns: then a new part begins.
W&B's export of a chart has columns of several runs, `RUN - TAG`, with `RUN - TAG__MIN` and `__MAX` beside each.
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
"""Names of the column with the step, the first one that is there."""
EPOCH = "epoch"
"""The one of them whose numbers are epochs."""
WALL_TIMES = ("wall_time", "wall time", "_timestamp", "timestamp")
"""Names of a column with seconds since 1970."""
TABLE_OF_RUNS = (("name", "id"), ("name", "state"), ("name", "runtime"), ("name", "created"))
"""Columns, in small letters, that W&B's table of runs has, which has a row a run and is no log."""
MISSING = ("", "na", "n/a", "none", "null")
"""What stands for no point, in small letters. A NaN is a point."""
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
BOUNDS = ("__MIN", "__MAX")
LONGEST = 2**17
"""Characters of a cell, at most."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        path: its file.
        names: of the columns.
        rows: cells, as many a row as there are names.
    """

    path: Path
    names: list[str]
    rows: list[list[str]]

    def column(self, position: int) -> list[str]:
        """The cells of one column."""
        return [row[position] for row in self.rows]


def is_log(path: Path) -> bool:
    """Whether a file is a table with a step, or one of TensorBoard's downloads, by its first line."""
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
    """What a table holds.

    Returns:
        name of the run → its scalars; the name is empty in a table of one run.

    Raises:
        BadInput: when the file cannot be read, or is no table with a step.
    """
    return scalars_of(*_read(path))


def has_step(names: Sequence[str]) -> bool:
    """Whether one of some columns has the step, by its name."""
    return _first_index(names, STEPS) is not None


def scalars_of(parts: Sequence[Table], damaged: Sequence[str]) -> dict[str, Scalars]:
    """What the parts of a table hold, the later points of a step standing.

    Args:
        parts: in the order in which they were written.
        damaged: a line for each thing that was passed over before.

    Returns:
        As `read`.

    Raises:
        BadInput: when a part has no step.
    """
    damaged = list(damaged)
    runs: dict[str, dict[str, Columns]] = {}
    by_epoch: dict[str, set[str]] = {}
    for part in parts:
        found, wrong = _scalars(part)
        damaged += wrong
        for (run, tag), points in found.items():
            of = runs.setdefault(run, {})
            if _counts_epochs(part):
                by_epoch.setdefault(run, set()).add(tag)
            pairs = zip(of[tag], points, strict=True) if tag in of else [[column] for column in points]
            of[tag] = sorted_by_step(Columns(*map(np.concatenate, pairs)))
    if damaged and not runs:
        return {"": Scalars({}, damaged)}
    return {run: Scalars(columns, damaged, frozenset(by_epoch.get(run, ()))) for run, columns in runs.items()}


def _scalars(table: Table) -> tuple[dict[tuple[str, str], Columns], list[str]]:
    """(run, tag) → points as logged, and a line for each column with cells that are passed over."""
    if _is_of_runs(table.names):
        raise BadInput(f"{table.path}: is a table of runs, a row each, and no log: export the charts of its runs")
    at = _first_index(table.names, STEPS)
    if at is None:
        named = ", ".join(repr(name) for name in table.names[:8])
        raise BadInput(f"{table.path}: no column is a step: it has {named}; export it over Step")
    steps, known = _steps(table, at)
    wall_times = _wall_times(table)
    found: dict[tuple[str, str], Columns] = {}
    damaged: list[str] = []
    words: list[str] = []
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
            (damaged if there.any() or has_commas else words).append(line)
        there &= known
        if there.any():
            found[run, tag] = Columns(steps[there], wall_times[there], values[there])
    return found, damaged if found else damaged + words  # beside scalars a column of words is nothing amiss


def _read(path: Path) -> tuple[list[Table], list[str]]:
    """The parts of a file, each with its own first line, and a line for rows that are passed over."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadInput(f"{path}: has {size} bytes, and no more than {LARGEST} of a table are read")
        text = path.read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        rows = [row for row in csv.reader(lines, delimiter=_delimiter(lines[0] if lines else "")) if row]
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    except csv.Error as error:
        raise BadInput(f"{path}: cannot be read as a table ({error})") from None
    if max((len(cell) for row in rows for cell in row), default=0) > LONGEST:  # csv's own limit is the whole process's
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
        raise BadInput(f"{path}: two columns are called {twice[0]!r}")
    return names


def _begins(row: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a row is another first line: it names the column with the step again."""
    at = _first_index(names, STEPS)
    return at is not None and names[at] in (cell.strip() for cell in row)


def _delimiter(line: str) -> str:
    return max((",", ";", "\t"), key=line.count)


def _is_of_runs(names: Sequence[str]) -> bool:
    small = {name.strip().lower() for name in names}
    return any(small >= set(pair) for pair in TABLE_OF_RUNS)


def _first_index(names: Sequence[str], known: Sequence[str]) -> int | None:
    """Where the first of some known names is."""
    small = [name.strip().lower() for name in names]
    return next((small.index(name) for name in known if name in small), None)


def _counts_epochs(table: Table) -> bool:
    """Whether the column with the step has epochs."""
    at = _first_index(table.names, STEPS)
    return at is not None and table.names[at].lower() == EPOCH


def _named(name: str, names: Sequence[str]) -> tuple[str, str | None]:
    """The run and the tag of a column; no tag for one that is no scalar."""
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
    """Each row's step, and whether it has one. Raises BadInput when a step is no whole number."""
    steps, there, wrong = _numbers(table.column(at))
    whole = np.isfinite(steps) & (steps == np.rint(steps)) & (np.abs(steps) < 2**53)
    if wrong or not whole[there].all():
        raise BadInput(f"{table.path}: a step in column {table.names[at]!r} is no whole number")
    return np.where(there, steps, 0).astype(np.int64), there


def _wall_times(table: Table) -> np.ndarray:
    """Each row's time in seconds since 1970; NaN where none is told."""
    at = _first_index(table.names, WALL_TIMES)
    return np.full(len(table.rows), np.nan) if at is None else _numbers(table.column(at))[0]


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Whether all cells that are no numbers to Python would be some with a point in place of the comma."""
    wrong = [cell.strip() for cell in cells if not _is_number(cell) and cell.strip().lower() not in MISSING]
    return bool(wrong) and all(DECIMAL_COMMA.fullmatch(cell) for cell in wrong)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells as numbers, which of them are numbers, and how many are words."""
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

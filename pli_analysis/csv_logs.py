"""Tables that others log to: Lightning's metrics.csv, Keras's CSVLogger, and what W&B exports of a chart.

One column has the step. Each other column of numbers is a scalar, named by the first line; an empty cell is no point.
W&B's export of a chart has columns of several runs, `RUN - TAG`, with `RUN - TAG__MIN` and `__MAX` beside each.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.downloads import FIRST_LINE, LARGEST, is_download
from pli_analysis.events import Columns, settled
from pli_analysis.scalars import Scalars
from pli_train.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = (
    *("step", "_step", "global_step", "global step", "trainer/global_step", "train/global_step"),
    *("iteration", "iter", "epoch"),
)
"""Names of the column with the step, the first one that is there."""
WALL_TIMES = ("wall_time", "wall time", "_timestamp", "timestamp")
"""Names of a column with seconds since 1970."""
MISSING = ("", "na", "n/a", "none", "null")
"""What stands for no point, in small letters. A NaN is a point."""
BOUNDS = ("__MIN", "__MAX")


@dataclass(frozen=True)
class _Table:
    """A table as text.

    Attributes:
        path: its file.
        names: of the columns.
        rows: cells, as many a row as there are names.
        damaged: a line for what was passed over.
    """

    path: Path
    names: list[str]
    rows: list[list[str]]
    damaged: list[str]

    def column(self, place: int) -> list[str]:
        """The cells of one column."""
        return [row[place] for row in self.rows]


def is_log(path: Path) -> bool:
    """Whether a file is a table with a step, or one of TensorBoard's downloads, by its first line."""
    try:
        with path.open("rb") as file:
            line = file.readline(FIRST_LINE).decode("utf-8-sig").strip("\r\n")
        names = next(csv.reader([line], delimiter=_delimiter(line)), [])
    except (OSError, UnicodeError, csv.Error):
        return False
    return is_download(path) or (len(names) > 1 and _place(names, STEPS) is not None)


def read(path: Path) -> dict[str, Scalars]:
    """What a table holds.

    Returns:
        name of the run → its scalars; the name is empty in a table of one run.

    Raises:
        BadInput: when the file cannot be read, or is no table with a step.
    """
    table = _read(path)
    at = _place(table.names, STEPS)
    if at is None:
        named = ", ".join(repr(name) for name in table.names[:8])
        raise BadInput(f"{path}: no column is a step: it has {named}; export it over Step")
    steps, known = _steps(table, at)
    wall_times = _wall_times(table)
    runs: dict[str, dict[str, Columns]] = {}
    damaged = list(table.damaged)
    for place, name in enumerate(table.names):
        run, tag = _named(name, table.names)
        if place == at or tag is None:
            continue
        values, there, wrong = _numbers(table.column(place))
        if wrong and not there.any():
            continue  # words
        if wrong:
            damaged.append(f"{path}: {wrong} cell{'s' * (wrong > 1)} of {name!r} without a number")
        there &= known
        if there.any():
            points = Columns(steps[there], wall_times[there], values[there])
            runs.setdefault(run, {})[tag] = settled(points)
    return {run: Scalars(columns, damaged) for run, columns in runs.items()}


def _read(path: Path) -> _Table:
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
    if not rows:
        raise BadInput(f"{path}: is empty")
    names = [name.strip() for name in rows[0]]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise BadInput(f"{path}: two columns are called {twice[0]!r}")
    whole = [row for row in rows[1:] if len(row) == len(names)]
    lost = len(rows) - 1 - len(whole)
    damaged = [f"{path}: {lost} row{'s' * (lost > 1)} without {len(names)} cells"] if lost else []
    return _Table(path, names, whole, damaged)


def _delimiter(line: str) -> str:
    return max((",", ";", "\t"), key=line.count)


def _place(names: Sequence[str], known: Sequence[str]) -> int | None:
    """Where the first of some known names is."""
    small = [name.strip().lower() for name in names]
    return next((small.index(name) for name in known if name in small), None)


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


def _steps(table: _Table, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Each row's step, and whether it has one. Raises BadInput when a step is no whole number."""
    steps, there, wrong = _numbers(table.column(at))
    whole = np.isfinite(steps) & (steps == np.rint(steps)) & (np.abs(steps) < 2**53)
    if wrong or not whole[there].all():
        raise BadInput(f"{table.path}: a step in column {table.names[at]!r} is no whole number")
    return np.where(there, steps, 0).astype(np.int64), there


def _wall_times(table: _Table) -> np.ndarray:
    """Each row's time in seconds since 1970; NaN where none is told."""
    at = _place(table.names, WALL_TIMES)
    return np.full(len(table.rows), np.nan) if at is None else _numbers(table.column(at))[0]


def _numbers(cells: Sequence[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells as numbers, which of them are numbers, and how many are words."""
    values, there, wrong = np.full(len(cells), np.nan), np.zeros(len(cells), dtype=bool), 0
    for place, cell in enumerate(cells):
        if cell.strip().lower() in MISSING:
            continue
        try:
            values[place] = float(cell)
            there[place] = True
        except ValueError:
            wrong += 1
    return values, there, wrong

"""Read and write scalars in TensorBoard's download formats (JSON, CSV).

NaN and infinite values are the strings "NaN", "Infinity" and "-Infinity" in JSON, and nan, inf and -inf in CSV.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_train.core import output
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.scalars.events import Columns

ENDINGS = (".json", ".csv")
LARGEST = 2**28
"""Maximum size of a download in bytes: about four million points."""
HEADER = ("Wall time", "Step", "Value")
FIRST_LINE = 2**16
"""Maximum length of a header in bytes."""
LONGEST_NAME = 100
"""Maximum length of a file name without its suffix."""


def is_download(path: Path) -> bool:
    """Return whether the header of a file is that of a CSV download."""
    try:
        with path.open("rb") as file:
            line = file.readline(FIRST_LINE).decode("utf-8-sig")
    except (OSError, UnicodeError):
        return False
    return _is_header(line.strip().split(","))


def is_json(path: Path) -> bool:
    """Return whether a file may be a JSON download: it begins with a list of lists."""
    try:
        with path.open("rb") as file:
            return b"".join(file.read(64).split()).startswith(b"[[")
    except OSError:
        return False


def read(path: Path) -> np.ndarray:
    """Read the points of a download, as logged.

    Returns:
        [points, 3] float64: wall time in seconds since 1970, step, value. NaN and infinity are kept.

    Raises:
        BadInput: when the file cannot be read or is no download.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadInput(f"{path}: has {size} bytes, more than the maximum of {LARGEST} for a download")
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a CSV with a byte order mark
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    rows = _json(path, text) if path.suffix == ".json" else _csv(path, text)
    try:
        points = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
    except (TypeError, ValueError, OverflowError):
        raise _no_download(path, "a row is not three numbers") from None
    if not (np.isfinite(points[:, :2]).all() and (points[:, 1] == np.rint(points[:, 1])).all()):
        raise _no_download(path, "a step is not an integer or a time is not finite")
    if len(points) and np.abs(points[:, 1]).max() >= 2**53:
        raise _no_download(path, "a step is too large")
    return points


def _json(path: Path, text: str) -> list[Any]:
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_download(path, str(error)[:200]) from None
    if not isinstance(document, list) or not all(isinstance(row, list) and len(row) == 3 for row in document):
        raise _no_download(path, "it is not a list of [wall time, step, value]")
    try:
        return [[_number(cell) for cell in row] for row in document]
    except ValueError:
        raise _no_download(path, "a row is not three numbers") from None


def _number(cell: Any) -> Any:
    """Parse a JSON value; NaN and infinity are strings, or null for NaN."""
    return float("nan") if cell is None else float(cell) if isinstance(cell, str) else cell


def _csv(path: Path, text: str) -> list[list[str]]:
    import csv

    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise _no_download(path, str(error)) from None
    if not rows or not _is_header(rows[0]):
        raise _no_download(path, "its first line is not Wall time,Step,Value")
    return rows[1:]


def _is_header(names: Iterable[str]) -> bool:
    return [name.strip().strip('"').lower() for name in names] == [name.lower() for name in HEADER]


def _no_download(path: Path, why: str) -> BadInput:
    return BadInput(f"{path}: is not a TensorBoard download ({why})")


# --- writing --------------------------------------------------------------------------------------------------------


def write(folder: Path, scalars: dict[str, Columns], ending: str) -> dict[str, Path]:
    """Write a download of each scalar, byte for byte as TensorBoard serves them.

    Args:
        folder: the output folder; it is created if missing.
        scalars: tag → points.
        ending: .json or .csv.

    Returns:
        tag → file.

    Raises:
        BadInput, PliError: as `output.write`.
    """
    output.make_folder(folder)
    files = {tag: folder / f"{name}{ending}" for tag, name in names(scalars).items()}
    for tag, path in files.items():
        text = _as_json(scalars[tag]) if ending == ".json" else _as_csv(scalars[tag])
        output.write(path, text)
    return files


def names(tags: Iterable[str]) -> dict[str, str]:
    """Return a file name without suffix for each tag: letters, digits and `._-`; unique even if case is ignored.

    >>> names(["loss/train", "loss_train", "../../x", ""])
    {'loss/train': 'loss_train', 'loss_train': 'loss_train-2', '../../x': 'x', '': 'scalar'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for tag in tags:
        # A leading dot hides a file or leaves the folder, and a leading dash looks like an option.
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", tag).strip("._-")[:LONGEST_NAME] or "scalar"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        found[tag] = name
    return found


def _as_json(columns: Columns) -> str:
    import json

    return json.dumps([[wall, step, _word(value)] for wall, step, value in _rows(columns)])


def _as_csv(columns: Columns) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER)
    writer.writerows(_rows(columns))
    return text.getvalue()


def _rows(columns: Columns) -> Iterable[tuple[float, int, float]]:
    steps, wall_times, values = (column.tolist() for column in columns)
    return zip(wall_times, steps, values, strict=True)


def _word(value: float) -> float | str:
    """Return the string for NaN and infinity, which JSON numbers cannot represent."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"

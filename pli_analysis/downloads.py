"""TensorBoard's own downloads of one scalar: JSON `[[wall_time, step, value], …]` and CSV `Wall time,Step,Value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pli_train.errors import BadInput

ENDINGS = (".json", ".csv")
LARGEST = 2**28
"""Bytes of a download that are read at most: some four million points."""
HEADER = ("wall time", "step", "value")


def read(path: Path) -> np.ndarray:
    """The points of a download, as logged.

    Returns:
        [points, 3] in float64: wall time in seconds since 1970, step, value. NaN and infinity stay.

    Raises:
        BadInput: when the file cannot be read or is no download.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise BadInput(f"{path}: has {size} bytes, and no more than {LARGEST} of a download are read")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error})") from None
    rows = _json(path, text) if path.suffix == ".json" else _csv(path, text)
    try:
        points = np.array(rows, dtype=np.float64).reshape(len(rows), 3)
    except (TypeError, ValueError, OverflowError):
        raise _no_download(path, "a row is not three numbers") from None
    if not (np.isfinite(points[:, :2]).all() and (points[:, 1] == np.rint(points[:, 1])).all()):
        raise _no_download(path, "a step or a time is no number of its kind")
    if len(points) and np.abs(points[:, 1]).max() >= 2**53:
        raise _no_download(path, "a step is beyond all measure")
    return points


def _json(path: Path, text: str) -> list[Any]:
    import json

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_download(path, str(error)[:200]) from None
    if not isinstance(document, list) or not all(isinstance(row, list) and len(row) == 3 for row in document):
        raise _no_download(path, "it is no list of [wall time, step, value]")
    try:
        return [[_number(cell) for cell in row] for row in document]
    except ValueError:
        raise _no_download(path, "a row is not three numbers") from None


def _number(cell: Any) -> Any:
    """What NaN and infinity are in a download: words, or null."""
    return float("nan") if cell is None else float(cell) if isinstance(cell, str) else cell


def _csv(path: Path, text: str) -> list[list[str]]:
    import csv

    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise _no_download(path, str(error)) from None
    if not rows or tuple(name.strip().lower() for name in rows[0]) != HEADER:
        raise _no_download(path, "its first line is not Wall time,Step,Value")
    return rows[1:]


def _no_download(path: Path, why: str) -> BadInput:
    return BadInput(f"{path}: is no TensorBoard download ({why})")

"""Scalars as TensorBoard keeps them: event files of one or several processes, told as one history."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import downloads, records
from pli_train import run_folder
from pli_train.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Scalars:
    """What a run logged.

    Attributes:
        values: tag → {step: (wall time in seconds since 1970, value)}, each step once.
        damaged: a line for each file with records that could not be read.
    """

    values: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def table(self, tag: str) -> pd.DataFrame:
        """One scalar as a table: `step`, `value`, `wall_time` (seconds since 1970); empty when it was not logged."""
        import pandas as pd

        rows = sorted((step, value, wall) for step, (wall, value) in self.values.get(tag, {}).items())
        types = {"step": "int64", "value": "float64", "wall_time": "float64"}
        return pd.DataFrame(rows, columns=list(types)).astype(types)

    def forget_from(self, step: int) -> None:
        """Drop what was logged at `step` or later: a resumed process does those steps again."""
        for tag, points in self.values.items():
            self.values[tag] = {at: point for at, point in points.items() if at < step}


def read(path: Path) -> Scalars:
    """Every scalar of a run folder, a folder with event files, one event file, or a download of one scalar.

    Files are read in the order that processes wrote them. One cut short (its process was killed) is read up to the cut.
    Where a later process resumed from an earlier step, its values stand. A download's tag is its file's stem.

    Raises:
        BadInput: when the path is not there, or a download is none.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.suffix in downloads.ENDINGS and path.is_file():
        points = {int(step): (wall, value) for wall, step, value in downloads.read(path).tolist()}
        return Scalars({path.stem: points} if points else {})
    return _of_events([path] if path.is_file() else sorted(path.glob(run_folder.SCALARS), key=_begun))


def _of_events(files: list[Path]) -> Scalars:
    scalars = Scalars()
    for path in files:
        try:
            add(scalars, path.read_bytes(), str(path))
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    return scalars


def add(scalars: Scalars, data: bytes, name: str) -> None:
    """Put an event file's scalars on top of those of earlier files, in the order of its records.

    Args:
        scalars: takes them.
        data: the file's bytes.
        name: what a line about damage calls it.
    """
    there = records.find(data)
    plain, others = records.decode(data, there)
    found, restarts = _unusual(data, there, others)
    if lost := there.damaged + len(others) - len(found.known):
        scalars.damaged.append(f"{name}: {lost} damaged record{'s' * (lost > 1)}")
    marks = [*restarts, (len(there.starts), None)]
    begun, together = 0, records.by_tag([*plain, *found.points])
    for at, step in marks:
        for points in together:
            low, high = np.searchsorted(points.record, [begun, at])
            if low < high:
                part = slice(low, high)
                pairs = zip(points.wall_time[part].tolist(), points.value[part].tolist(), strict=True)
                new = dict(zip(points.step[part].tolist(), pairs, strict=True))
                scalars.values.setdefault(points.tag, {}).update(new)
        if step is not None:
            scalars.forget_from(step)
        begun = at


@dataclass
class _Found:
    points: list[records.Points] = field(default_factory=list)
    known: list[int] = field(default_factory=list)


def _unusual(data: bytes, there: records.Records, others: np.ndarray) -> tuple[_Found, list[tuple[int, int | None]]]:
    """What protobuf makes of the other records: their scalars, and (record, step) of each start of a process."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    found, restarts = _Found(), []
    rows: dict[str, list[tuple[int, int, float, float]]] = {}
    for record in others.tolist():
        start = int(there.starts[record])
        try:
            event = Event.FromString(data[start : start + int(there.lengths[record])])
            numbers = [(value.tag, _number(value)) for value in event.summary.value if _is_scalar(value)]
        except (DecodeError, ValueError, TypeError):
            continue
        found.known.append(record)
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            restarts.append((record, event.step))
        for tag, number in numbers:
            rows.setdefault(tag, []).append((record, event.step, event.wall_time, number))
    for tag, of_tag in rows.items():
        columns = (np.array(column) for column in zip(*of_tag, strict=True))
        found.points.append(records.Points(tag, *columns))
    return found, restarts


def _is_scalar(value: Any) -> bool:
    return value.metadata.plugin_data.plugin_name == "scalars" or value.HasField("simple_value")


def _number(value: Any) -> float:
    """One value of any kind that TensorBoard takes for a scalar. Raises ValueError or TypeError when it is none."""
    from tensorboard.util.tensor_util import make_ndarray

    return value.simple_value if value.HasField("simple_value") else float(make_ndarray(value.tensor).item())


def _begun(path: Path) -> tuple[int, float, str]:
    """What puts a file in its place: the number in its name, then when it was begun by its first record.

    Our own numbers grow whatever the clock does. Other writers' names tell the second alone: two processes of one
    second would swap places.
    """
    try:
        with path.open("rb") as file:
            first = file.read(21)[12:]
    except OSError:
        first = b""
    whole = len(first) == 9 and first[0] == records.WALL_TIME
    return run_folder.order_of(path), struct.unpack("<d", first[1:])[0] if whole else 0.0, path.name

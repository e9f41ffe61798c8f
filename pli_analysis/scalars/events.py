"""Decode event-file records to columns of scalars.

Writers of scalars nearly always put the same fields in the same order. Records with such a layout are decoded together
(`record_layouts`); protobuf decodes the others one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis.scalars import record_layouts
from pli_analysis.scalars.record_layouts import Points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pli_analysis.scalars.records import Records


class Columns(NamedTuple):
    """The points of one tag, sorted by step.

    Attributes:
        steps: [points] int64, strictly increasing.
        wall_times: [points] float64, seconds since 1970.
        values: [points] float64; NaN and infinity are kept.
    """

    steps: np.ndarray
    wall_times: np.ndarray
    values: np.ndarray


NOTHING = Columns(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Segment:
    """Scalars from consecutive records.

    Attributes:
        columns: tag → points.
        forgets: the records discard earlier points from this step on (a restart); None if they discard none.
        damaged: number of records that could not be decoded.
    """

    columns: Mapping[str, Columns]
    forgets: int | None = None
    damaged: int = 0

    def then(self, later: Segment) -> Segment:
        """Merge with the segment of the records right after it. The operation is associative."""
        if later.forgets is None:
            merged = dict(self.columns)
        else:
            cut = {tag: _before(columns, later.forgets) for tag, columns in self.columns.items()}
            merged = {tag: columns for tag, columns in cut.items() if len(columns.steps)}
        for tag, columns in later.columns.items():
            merged[tag] = _overlaid(merged.get(tag, NOTHING), columns)
        forgets = min((step for step in (self.forgets, later.forgets) if step is not None), default=None)
        return Segment(merged, forgets, self.damaged + later.damaged)


def _before(columns: Columns, step: int) -> Columns:
    end = int(np.searchsorted(columns.steps, step))
    return columns if end == len(columns.steps) else Columns(*(column[:end] for column in columns))


def _overlaid(earlier: Columns, later: Columns) -> Columns:
    """Merge both; the later value counts if a step is in both."""
    if not len(earlier.steps):
        return later
    return sorted_by_step(Columns(*(np.concatenate(pair) for pair in zip(earlier, later, strict=True))))


def sorted_by_step(logged: Columns) -> Columns:
    """Sort points from logging order by step, and keep the last point of each step."""
    if (logged.steps[1:] > logged.steps[:-1]).all():
        return logged
    order = np.argsort(logged.steps, kind="stable")
    kept = order[_last_of_each(logged.steps[order])]
    return Columns(*(column[kept] for column in logged))


def _last_of_each(*sorted_keys: np.ndarray) -> np.ndarray:
    """Return a mask of the entries that differ from the next one in any key."""
    last = np.zeros(len(sorted_keys[0]), dtype=bool)
    last[-1:] = True
    for keys in sorted_keys:
        last[:-1] |= keys[1:] != keys[:-1]
    return last


# --- decoding -------------------------------------------------------------------------------------------------------


def decode(data: bytes, records: Records) -> Segment:
    """Decode records; those that are no events count as damaged."""
    usual, others = record_layouts.decode(data, records)
    unusual, restarts, damaged = _unusual(data, records, others)
    points = _together([*usual, unusual])
    if restarts:
        points = _kept(points, restarts)
    return Segment(_columns(points), min((step for _, step in restarts), default=None), damaged)


def _unusual(data: bytes, records: Records, others: np.ndarray) -> tuple[Points, list[tuple[int, int]], int]:
    """Decode other records by protobuf: scalars, (record, step) of each process start, number of damaged records."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    tags: dict[str, int] = {}
    rows, restarts, damaged = [], [], 0
    for record in others.tolist():
        start = int(records.starts[record])
        try:
            event = Event.FromString(data[start : start + int(records.lengths[record])])
            numbers = [(value.tag, _number(value)) for value in event.summary.value if _is_scalar(value)]
        except (DecodeError, ValueError, TypeError):
            damaged += 1
            continue
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            restarts.append((record, event.step))
        for tag, number in numbers:
            rows.append((tags.setdefault(tag, len(tags)), record, event.step, event.wall_time, number))
    columns = zip(*rows, strict=True) if rows else [()] * 5
    types = (np.int64, np.int64, np.int64, np.float64, np.float64)
    arrays = (np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True))
    return Points(list(tags), *arrays), restarts, damaged


def _is_scalar(value: Any) -> bool:
    return value.metadata.plugin_data.plugin_name == "scalars" or value.HasField("simple_value")


def _number(value: Any) -> float:
    """Return a value of any type that TensorBoard accepts as a scalar. Raises ValueError or TypeError otherwise."""
    from tensorboard.util.tensor_util import make_ndarray

    return value.simple_value if value.HasField("simple_value") else float(make_ndarray(value.tensor).item())


def _together(parts: list[Points]) -> Points:
    """Merge points in the order of records."""
    parts = [part for part in parts if len(part.record)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    tags: dict[str, int] = {}
    ids = [np.array([tags.setdefault(tag, len(tags)) for tag in part.tags])[part.tag] for part in parts]
    record = np.concatenate([part.record for part in parts])
    columns = [ids, *([getattr(part, name) for part in parts] for name in ("record", "step", "wall_time", "value"))]
    order = np.argsort(record, kind="stable")
    return Points(list(tags), *(np.concatenate(column)[order] for column in columns))


def _kept(points: Points, restarts: list[tuple[int, int]]) -> Points:
    """Remove points that a later process start discards: those at its step and after it."""
    records, steps = (np.array(column) for column in zip(*restarts, strict=True))
    lowest = np.minimum.accumulate(steps[::-1])[::-1]  # over this start and all later ones
    after = np.searchsorted(records, points.record, side="right")
    kept = (after == len(records)) | (points.step < lowest[np.minimum(after, len(records) - 1)])
    columns = (points.tag, points.record, points.step, points.wall_time, points.value)
    return Points(points.tags, *(column[kept] for column in columns))


def _columns(points: Points) -> dict[str, Columns]:
    """Group points by tag and sort them by step; the later value counts if a step occurs twice."""
    small = points.tag.astype(np.uint16) if len(points.tags) < 2**16 else points.tag  # radix sort, much faster
    order = np.argsort(small, kind="stable")
    tag, step = points.tag[order], points.step[order]
    if ((tag[1:] == tag[:-1]) & (step[1:] <= step[:-1])).any():
        again = np.lexsort((step, tag))
        again = again[_last_of_each(tag[again], step[again])]
        order, tag, step = order[again], tag[again], step[again]
    columns = step, points.wall_time[order], points.value[order]
    ends = np.cumsum(np.bincount(tag, minlength=len(points.tags))).tolist()
    parts = zip(points.tags, [0, *ends], ends, strict=False)
    return {name: Columns(*(column[low:high] for column in columns)) for name, low, high in parts if low < high}

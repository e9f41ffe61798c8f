"""Records of an event file as columns of scalars, one set a tag.

What writers of scalars put in a record is nearly always the same fields in the same order: wall time, step, one value
of one tag. Records of that layout are decoded together, whatever their tags and steps; protobuf decodes each other one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pli_analysis.records import view

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pli_analysis.records import Records

WALL_TIME, STEP, SUMMARY, VALUE, TAG, SIMPLE = 0x09, 0x10, 0x2A, 0x0A, 0x0A, 0x15
"""First bytes of protobuf's fields: `Event.wall_time`, `.step`, `.summary`, `Summary.value`, `Value.tag`,
`.simple_value`."""
HEADS, TAIL = 6, 5
"""Bytes of the heads of summary, value and tag, one and a length of one byte each; of the number after the tag."""
BEFORE_STEP = 9
LEAST, LONGEST_TAG = BEFORE_STEP + HEADS + TAIL, 127 - 4 - TAIL
"""Bytes of the shortest plain record, and of the longest tag in one: all lengths in it then take one byte."""


class Columns(NamedTuple):
    """The points of one tag, by step.

    Attributes:
        steps: [points] int64, each step once, rising.
        wall_times: [points] float64, seconds since 1970.
        values: [points] float64; NaN and infinity stay.
    """

    steps: np.ndarray
    wall_times: np.ndarray
    values: np.ndarray


NOTHING = Columns(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Piece:
    """What some records in a row say.

    Attributes:
        columns: tag → its points.
        forgets: the step from which on they drop what was logged before them; None for no drop.
        damaged: records that could not be decoded.
    """

    columns: Mapping[str, Columns]
    forgets: int | None = None
    damaged: int = 0

    def then(self, later: Piece) -> Piece:
        """This one, and the records that come right after it. Any grouping of pieces in a row gives the same."""
        if later.forgets is None:
            merged = dict(self.columns)
        else:
            cut = {tag: _before(columns, later.forgets) for tag, columns in self.columns.items()}
            merged = {tag: columns for tag, columns in cut.items() if len(columns.steps)}
        for tag, columns in later.columns.items():
            merged[tag] = _overlaid(merged.get(tag, NOTHING), columns)
        forgets = min((step for step in (self.forgets, later.forgets) if step is not None), default=None)
        return Piece(merged, forgets, self.damaged + later.damaged)


def _before(columns: Columns, step: int) -> Columns:
    end = int(np.searchsorted(columns.steps, step))
    return columns if end == len(columns.steps) else Columns(*(column[:end] for column in columns))


def _overlaid(earlier: Columns, later: Columns) -> Columns:
    """Both, and the later value where a step stands in both."""
    if not len(earlier.steps):
        return later
    return settled(Columns(*(np.concatenate(pair) for pair in zip(earlier, later, strict=True))))


def settled(logged: Columns) -> Columns:
    """Points in the order of logging, put in the order of steps; of those of one step, the last."""
    if (logged.steps[1:] > logged.steps[:-1]).all():
        return logged
    order = np.argsort(logged.steps, kind="stable")
    kept = order[_last_of_each(logged.steps[order])]
    return Columns(*(column[kept] for column in logged))


def _last_of_each(*sorted_keys: np.ndarray) -> np.ndarray:
    """Which entries differ from the next one, in any key."""
    last = np.zeros(len(sorted_keys[0]), dtype=bool)
    last[-1:] = True
    for keys in sorted_keys:
        last[:-1] |= keys[1:] != keys[:-1]
    return last


# --- decoding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Points:
    """Scalars as they stand in records: `tag` [points] is a place in `tags`, `record` says which record each is of."""

    tags: list[str]
    tag: np.ndarray
    record: np.ndarray
    step: np.ndarray
    wall_time: np.ndarray
    value: np.ndarray


def decode(data: bytes, records: Records) -> Piece:
    """What the records of some bytes say; damaged among them are those that are no event."""
    plain, others = _plain(data, records)
    found, restarts, damaged = _unusual(data, records, others)
    points = _together(plain, found) if len(found.record) else plain
    if restarts:
        points = _kept(points, restarts)
    return Piece(_columns(points), min((step for _, step in restarts), default=None), damaged)


def _plain(data: bytes, records: Records) -> tuple[_Points, np.ndarray]:
    """Decode all plain records together. Also gives the indices of all others."""
    left = np.ones(len(records.starts), dtype=bool)
    chosen = np.flatnonzero(records.lengths >= LEAST)
    starts, lengths = records.starts[chosen], records.lengths[chosen]
    steps, at = _steps(data, starts)
    sizes = lengths - at - HEADS - TAIL
    plain = _is_plain(data, starts, at, sizes)
    chosen, starts, steps, places, sizes = (x[plain] for x in (chosen, starts, steps, starts + at + HEADS, sizes))
    names, tag = _tags(data, places, sizes)
    if (tag < 0).any():
        chosen, starts, steps, places, sizes, tag = (x[tag >= 0] for x in (chosen, starts, steps, places, sizes, tag))
    left[chosen] = False
    values = view(data, "<f4")[places + sizes + 1].astype(np.float64)
    return _Points(names, tag, chosen, steps, view(data, "<f8")[starts + 1], values), np.flatnonzero(left)


def _steps(data: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each record's step, 0 where none is told, and the place after it. Records have LEAST bytes or more."""
    bytes_ = view(data, "u1")
    steps, at = np.zeros(len(starts), dtype=np.uint64), np.full(len(starts), BEFORE_STEP)
    more = np.flatnonzero(bytes_[starts + BEFORE_STEP] == STEP)
    at[more] += 1
    for number in range(10):  # a varint: seven bits a byte, and the eighth says whether another follows
        byte = bytes_[starts[more] + BEFORE_STEP + 1 + number]
        steps[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * number)
        at[more] += 1
        more = more[byte >= 0x80]
        if not len(more):
            break
    return steps.view(np.int64), at


def _is_plain(data: bytes, starts: np.ndarray, at: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which records are a wall time, a step and `summary { value { tag simple_value } }`, with nothing else.

    Args:
        data: the file.
        starts: of the records.
        at: where in each the summary is to begin.
        sizes: of each tag, if the record is a plain one.
    """
    bytes_ = view(data, "u1")
    plain = (bytes_[starts] == WALL_TIME) & (sizes >= 0) & (sizes <= LONGEST_TAG)
    starts, at, sizes = starts[plain], at[plain], sizes[plain]
    heads = SUMMARY | sizes + 4 + TAIL << 8 | VALUE << 16 | sizes + 2 + TAIL << 24 | TAG << 32 | sizes << 40
    agree = view(data, "<u8")[starts + at] & np.uint64(2**48 - 1) == heads.astype(np.uint64)
    plain[plain] = agree & (bytes_[starts + at + HEADS + sizes] == SIMPLE)
    return plain


def _tags(data: bytes, places: np.ndarray, sizes: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The tags there are, and which one each record has; -1 for a tag that is not UTF-8.

    Tags are told apart by a hash. One that shares its hash with another tag has -1 as well: protobuf tells it.
    """
    import pandas as pd

    words, hashes = [], sizes.astype(np.uint64)
    for begin in range(0, int(sizes.max(initial=0)), 8):
        # What lies behind a tag is read and then cleared: at least the number after it and a checksum lie there.
        word = view(data, "<u8")[np.where(begin < sizes, places + begin, 0)] & _MASKS[np.clip(sizes - begin, 0, 8)]
        words.append(word)
        hashes = (hashes ^ word) * _ODD
        hashes ^= hashes >> np.uint64(29)
    tag, different = pd.factorize(hashes)
    first = np.zeros(len(different), dtype=np.int64)
    first[tag[::-1]] = np.arange(len(tag))[::-1]
    same = sizes == sizes[first][tag]
    for word in words:
        same &= word == word[first][tag]
    names: list[str] = []
    ids = np.full(len(first), -1)
    for number, (place, size) in enumerate(zip(places[first].tolist(), sizes[first].tolist(), strict=True)):
        try:
            names.append(data[place : place + size].decode())
        except UnicodeDecodeError:
            continue
        ids[number] = len(names) - 1
    return names, np.where(same, ids[tag], -1)


_MASKS = np.array([2 ** (8 * size) - 1 for size in range(9)], dtype=np.uint64)
_ODD = np.uint64(0x9E3779B97F4A7C15)


def _unusual(data: bytes, records: Records, others: np.ndarray) -> tuple[_Points, list[tuple[int, int]], int]:
    """What protobuf makes of other records: scalars, (record, step) of each start of a process, the number damaged."""
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
    return _Points(list(tags), *arrays), restarts, damaged


def _is_scalar(value: Any) -> bool:
    return value.metadata.plugin_data.plugin_name == "scalars" or value.HasField("simple_value")


def _number(value: Any) -> float:
    """One value of any kind that TensorBoard takes for a scalar. Raises ValueError or TypeError when it is none."""
    from tensorboard.util.tensor_util import make_ndarray

    return value.simple_value if value.HasField("simple_value") else float(make_ndarray(value.tensor).item())


def _together(plain: _Points, found: _Points) -> _Points:
    """Both, in the order of records."""
    tags = {tag: number for number, tag in enumerate(plain.tags)}
    ids = np.array([tags.setdefault(tag, len(tags)) for tag in found.tags])
    pairs = [(plain.tag, ids[found.tag]), (plain.record, found.record), (plain.step, found.step)]
    pairs += [(plain.wall_time, found.wall_time), (plain.value, found.value)]
    order = np.argsort(np.concatenate(pairs[1]), kind="stable")
    return _Points(list(tags), *(np.concatenate(pair)[order] for pair in pairs))


def _kept(points: _Points, restarts: list[tuple[int, int]]) -> _Points:
    """Without what a later start of a process drops: the points of its step and after it."""
    records, steps = (np.array(column) for column in zip(*restarts, strict=True))
    lowest = np.minimum.accumulate(steps[::-1])[::-1]  # of this start and all after it
    after = np.searchsorted(records, points.record, side="right")
    kept = (after == len(records)) | (points.step < lowest[np.minimum(after, len(records) - 1)])
    columns = (points.tag, points.record, points.step, points.wall_time, points.value)
    return _Points(points.tags, *(column[kept] for column in columns))


def _columns(points: _Points) -> dict[str, Columns]:
    """One set a tag, by step; where a step stands twice, its later value."""
    small = points.tag.astype(np.uint16) if len(points.tags) < 2**16 else points.tag  # sorted by radix, much faster
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

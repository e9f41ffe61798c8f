"""Decode the usual layouts of event records with numpy.

A plain record has a wall time, a step, and one number of one tag. A tensor record has a tensor of rank 0 and the tag's
metadata in place of the number; TensorFlow 2's `tf.summary.scalar` and everything built on it writes these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pli_analysis.scalars.records import view

if TYPE_CHECKING:
    from pli_analysis.scalars.records import Records

WALL_TIME, STEP, SUMMARY, VALUE, TAG, SIMPLE = 0x09, 0x10, 0x2A, 0x0A, 0x0A, 0x15
"""Protobuf field keys: `Event.wall_time`, `.step`, `.summary`, `Summary.value`, `Value.tag`,
`.simple_value`."""
TENSOR, METADATA = 0x42, 0x4A
"""Protobuf field keys: `Value.tensor`, `.metadata`."""
HEADS, TAIL = 6, 5
"""Bytes of the keys and one-byte lengths of summary, value and tag; bytes of the number after the tag."""
BEFORE_STEP = 9
LEAST, LONGEST_TAG = BEFORE_STEP + HEADS + TAIL, 127 - 4 - TAIL
"""Bytes of the shortest plain record, and of the longest tag for which all its lengths take one byte."""
LONGEST_SUMMARY = 2 + 127
"""Maximum bytes of a summary with key and length, if the length takes one byte."""
FIELD = 2
"""Bytes of the key and one-byte length of a tensor or of metadata."""
SHORTEST_TENSOR = 8
"""Bytes of the shortest tensor: a float without a shape."""
LEAST_TENSOR = HEADS + FIELD + SHORTEST_TENSOR + FIELD
"""Bytes of the shortest summary with a tensor."""

_FORMS = {
    bytes([0x08, dtype, *shape, field, np.dtype(kind).itemsize]): kind
    for dtype, kind, fields in ((1, "<f4", (0x22, 0x2A)), (2, "<f8", (0x22, 0x32)), (19, "<f2", (0x22,)))
    for field in fields
    for shape in ((), (0x12, 0x00))
}
"""Bytes before the number in a tensor of rank 0 → type of the number. The bytes are `dtype` (float, double or half), an
optional `tensor_shape`, and the key and length of `tensor_content`, `float_val` or `double_val`."""


@dataclass(frozen=True)
class Points:
    """Scalars decoded from records. Arrays are [points]: `tag` indexes `tags`, `record` is the index of the record."""

    tags: list[str]
    tag: np.ndarray
    record: np.ndarray
    step: np.ndarray
    wall_time: np.ndarray
    value: np.ndarray


class _Begun(NamedTuple):
    """Records with their steps, and the positions where their summaries should begin.

    Attributes:
        record: [records] indices of the records.
        start: position of each record in the data.
        end: position of its end.
        step: its step; 0 if it has none.
        at: position of its summary.
    """

    record: np.ndarray
    start: np.ndarray
    end: np.ndarray
    step: np.ndarray
    at: np.ndarray

    def only(self, which: np.ndarray) -> _Begun:
        """Return the records in a mask."""
        return self if which.all() else _Begun(*(column[which] for column in self))


def decode(data: bytes, records: Records) -> tuple[list[Points], np.ndarray]:
    """Decode all records of usual layouts, layout by layout. Also returns the sorted indices of the others."""
    begun, found = _begun(data, records), []
    left = np.ones(len(records.starts), dtype=bool)
    for layout in (_plain, _tensors):
        points = layout(data, begun)
        left[points.record] = False
        if len(points.record):
            found.append(points)
        begun = begun.only(left[begun.record])
    return found, np.flatnonzero(left)


def _begun(data: bytes, records: Records) -> _Begun:
    """Return the records that are long enough for a scalar and begin with a wall time."""
    long = np.flatnonzero(records.lengths >= LEAST)
    start = records.starts[long]
    step, at = _steps(data, start)
    begun = _Begun(long, start, start + records.lengths[long], step, start + at)
    return begun.only(view(data, "u1")[start] == WALL_TIME)


def _points(data: bytes, begun: _Begun, tags: np.ndarray, sizes: np.ndarray, values: np.ndarray) -> Points:
    """Return the points of records with tags at the given positions, except tags that protobuf has to decode."""
    names, tag = _tags(data, tags, sizes)
    known = tag >= 0
    begun, tag, values = begun.only(known), tag[known], values[known]
    return Points(names, tag, begun.record, begun.step, view(data, "<f8")[begun.start + 1], values)


def _plain(data: bytes, begun: _Begun) -> Points:
    """Decode records with only `summary { value { tag simple_value } }` after the step."""
    sizes = begun.end - begun.at - HEADS - TAIL
    right = (sizes >= 0) & (sizes <= LONGEST_TAG)
    begun, sizes = begun.only(right), sizes[right]
    right = view(data, "<u8")[begun.at] & _MASKS[HEADS] == _heads(sizes + HEADS + TAIL, sizes)
    right &= view(data, "u1")[begun.end - TAIL] == SIMPLE
    begun, sizes = begun.only(right), sizes[right]
    values = view(data, "<f4")[begun.end - TAIL + 1].astype(np.float64)
    return _points(data, begun, begun.at + HEADS, sizes, values)


def _tensors(data: bytes, begun: _Begun) -> Points:
    """Decode records with only `summary { value { tag tensor metadata } }` after the step, in a usual form."""
    begun = begun.only((begun.end - begun.at >= LEAST_TENSOR) & (begun.end - begun.at <= LONGEST_SUMMARY))
    bytes_, words = view(data, "u1"), view(data, "<u8")
    sizes = bytes_[begun.at + HEADS - 1].astype(np.int64)
    tensor = begun.at + HEADS + sizes
    right = words[begun.at] & _MASKS[HEADS] == _heads(begun.end - begun.at, sizes)
    right &= tensor + FIELD + SHORTEST_TENSOR + FIELD <= begun.end
    begun, sizes, tensor = begun.only(right), sizes[right], tensor[right]
    values, right = _numbers(data, tensor)
    right &= _are_metadata(data, tensor + FIELD + bytes_[tensor + 1], begun.end)
    begun, sizes, values = begun.only(right), sizes[right], values[right]
    return _points(data, begun, begun.at + HEADS, sizes, values)


def _steps(data: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the step of each record, 0 if it has none, and the offset after it. Records have at least LEAST bytes."""
    bytes_ = view(data, "u1")
    steps, at = np.zeros(len(starts), dtype=np.uint64), np.full(len(starts), BEFORE_STEP)
    more = np.flatnonzero(bytes_[starts + BEFORE_STEP] == STEP)
    at[more] += 1
    for number in range(10):  # a varint: seven bits per byte; the eighth bit is set if another byte follows
        byte = bytes_[starts[more] + BEFORE_STEP + 1 + number]
        steps[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(7 * number)
        at[more] += 1
        more = more[byte >= 0x80]
        if not len(more):
            break
    return steps.view(np.int64), at


def _heads(summaries: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Return the keys and lengths of summary, value and tag of each record as one number.

    Args:
        summaries: bytes of each summary, with key and length.
        tags: bytes of each tag.
    """
    heads = SUMMARY | summaries - 2 << 8 | VALUE << 16 | summaries - 4 << 24 | TAG << 32 | tags << 40
    return heads.astype(np.uint64)


def _numbers(data: bytes, tensors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number in each tensor, and whether the tensor has a usual form.

    Args:
        data: bytes of the file.
        tensors: positions where tensors should begin; at least ten bytes of the record follow.
    """
    heads, starts = view(data, "<u2")[tensors], view(data, "<u8")[tensors + FIELD]
    values, usual = np.zeros(len(tensors)), np.zeros(len(tensors), dtype=bool)
    for form, kind in _FORMS.items():
        size = len(form) + np.dtype(kind).itemsize
        mine = np.flatnonzero(heads == (TENSOR | size << 8))
        mine = mine[starts[mine] & _MASKS[len(form)] == np.uint64(int.from_bytes(form, "little"))]
        values[mine] = view(data, kind)[tensors[mine] + FIELD + len(form)]
        usual[mine] = True
    return values, usual


def _are_metadata(data: bytes, locations: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return whether a scalar's metadata fill each record from `locations` to `ends`; equal ones are decoded once."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.summary_pb2 import SummaryMetadata

    bytes_ = view(data, "u1")
    sizes = ends - locations - FIELD
    known = np.flatnonzero((sizes >= 0) & (ends + 4 <= len(data)))
    known = known[(bytes_[locations[known]] == METADATA) & (bytes_[locations[known] + 1] == sizes[known])]
    found, which = _words(data, locations[known] + FIELD, sizes[known])
    scalar = np.zeros(len(found) + 1, dtype=bool)  # the last entry is for index -1
    for number, word in enumerate(found):
        try:
            scalar[number] = SummaryMetadata.FromString(word).plugin_data.plugin_name == "scalars"
        except DecodeError:
            continue
    are = np.zeros(len(locations), dtype=bool)
    are[known] = scalar[which]
    return are


def _tags(data: bytes, locations: np.ndarray, sizes: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the different tags, and the index of the tag of each record; -1 for a tag that is not UTF-8."""
    words, which = _words(data, locations, sizes)
    names: list[str] = []
    ids = np.full(len(words) + 1, -1)  # the last entry is for index -1
    for number, word in enumerate(words):
        try:
            names.append(word.decode())
        except UnicodeDecodeError:
            continue
        ids[number] = len(names) - 1
    return names, ids[which]


def _words(data: bytes, locations: np.ndarray, sizes: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Return the different byte strings at the given positions, and the index of the string at each position.

    Strings are distinguished by a hash. A string with the hash of another one, or within eight bytes of the end of the
    data, has index -1: protobuf decodes it.
    """
    import pandas as pd

    inside = locations + (sizes + 7) // 8 * 8 <= len(data)
    locations = np.where(inside, locations, 0)
    sizes = np.where(inside, sizes, 0)
    words, hashes = [], sizes.astype(np.uint64)
    for begin in range(0, int(sizes.max(initial=0)), 8):
        # Whole words are read; bytes after the end of a string are cleared.
        word = view(data, "<u8")[np.where(begin < sizes, locations + begin, 0)] & _MASKS[np.clip(sizes - begin, 0, 8)]
        words.append(word)
        hashes = (hashes ^ word) * _ODD
        hashes ^= hashes >> np.uint64(29)
    which, different = pd.factorize(hashes)
    first = np.zeros(len(different), dtype=np.int64)
    first[which[::-1]] = np.arange(len(which))[::-1]
    same = inside & (sizes == sizes[first][which])
    for word in words:
        same &= word == word[first][which]
    known = [
        data[position : position + size]
        for position, size in zip(locations[first].tolist(), sizes[first].tolist(), strict=True)
    ]
    return known, np.where(same, which, -1)


_MASKS = np.array([2 ** (8 * size) - 1 for size in range(9)], dtype=np.uint64)
_ODD = np.uint64(0x9E3779B97F4A7C15)

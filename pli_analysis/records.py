"""TensorBoard's event files as bytes: framed records, and the plain scalars among them decoded many at a time.

A record is its length (8 bytes), a checksum of those (4), the payload, and a checksum of the payload (4). What writers
of scalars put in a payload is nearly always the same fields in the same order: wall time, step, one value of one tag.
Payloads of one length and one such layout are told apart by all bytes but the numbers in them, and decoded together;
every other payload is left to protobuf.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

FRAME = struct.Struct("<QI")
WALL_TIME, STEP, SUMMARY, VALUE, TAG, SIMPLE = 0x09, 0x10, 0x2A, 0x0A, 0x0A, 0x15
"""First bytes of protobuf's fields: `Event.wall_time`, `.step`, `.summary`, `Summary.value`, `Value.tag`,
`.simple_value`."""
MOST = 96
"""Bytes of a payload that is decoded together with others; the layout's lengths then take one byte each."""


@dataclass(frozen=True)
class Records:
    """Where the whole records of a file lie.

    Attributes:
        starts: [records], of each payload.
        lengths: [records], in bytes.
        damaged: records passed over because their checksum was wrong, and what followed a wrong length as one more.
    """

    starts: np.ndarray
    lengths: np.ndarray
    damaged: int


def find(data: bytes, check: bool = True) -> Records:
    """The records of a file, up to a last one that is cut short.

    Args:
        data: the file.
        check: whether payloads are held against their checksums; lengths always are.
    """
    from google_crc32c import value as crc

    starts, lengths, damaged = [], [], 0
    at, end = 0, len(data)
    while end - at >= 12:
        length, told = FRAME.unpack_from(data, at)
        if masked(crc(data[at : at + 8])) != told:
            damaged += 1  # nothing says where the next one begins
            break
        start, after = at + 12, at + 12 + length
        if after + 4 > end:
            break
        if check and masked(crc(data[start:after])) != int.from_bytes(data[after : after + 4], "little"):
            damaged += 1
        else:
            starts.append(start)
            lengths.append(length)
        at = after + 4
    return Records(np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64), damaged)


def masked(crc: int) -> int:
    """A checksum as it stands in the file: turned by 15 bits, plus a constant, so that sums of sums differ."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Points:
    """Scalars of one tag out of one group of records: `record` says which, for their order among others."""

    tag: str
    record: np.ndarray
    step: np.ndarray
    wall_time: np.ndarray
    value: np.ndarray


def by_tag(groups: list[Points]) -> list[Points]:
    """One for each tag, in the order of records: where a step stands twice, the later value is then the last."""
    of_tag: dict[str, list[Points]] = {}
    for group in groups:
        of_tag.setdefault(group.tag, []).append(group)
    found = []
    for tag, parts in of_tag.items():
        order = np.argsort(np.concatenate([part.record for part in parts]), kind="stable")
        columns = zip(*((part.record, part.step, part.wall_time, part.value) for part in parts), strict=True)
        found.append(Points(tag, *(np.concatenate(column)[order] for column in columns)))
    return found


def decode(data: bytes, records: Records) -> tuple[list[Points], np.ndarray]:
    """Decode plain scalars together.

    Returns:
        The scalars, and the indices of all other records.
    """
    bytes_, found = np.frombuffer(data, dtype=np.uint8), []
    left = np.ones(len(records.starts), dtype=bool)
    for length in np.unique(records.lengths[records.lengths <= MOST]).tolist():
        of_length = np.flatnonzero(records.lengths == length)
        payloads = bytes_[records.starts[of_length][:, None] + np.arange(length)]  # [records, length]
        for group in _alike(payloads):
            points = _decoded(payloads[group], of_length[group])
            if points is not None:
                found.append(points)
                left[points.record] = False
    return found, np.flatnonzero(left)


def _alike(payloads: np.ndarray) -> list[np.ndarray]:
    """Rows that agree in all but wall time, step and value: [records, length] → indices of each group."""
    if payloads.shape[1] < 14:
        return []
    skeleton = payloads.copy()
    skeleton[:, 1:9] = 0
    skeleton[:, -4:] = 0
    goes_on = payloads[:, 9] == STEP
    for place in range(10, min(20, payloads.shape[1] - 4)):  # a varint: all but its last byte have the high bit
        skeleton[goes_on, place] &= 0x80
        goes_on &= payloads[:, place] >= 0x80
    weights = np.random.default_rng(0).integers(1, 2**63, size=payloads.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = (skeleton.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)
    _, where = np.unique(hashes, return_inverse=True)
    order = np.argsort(where, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(where))[:-1])
    return [group for group in groups if (skeleton[group] == skeleton[group[0]]).all()]


def _decoded(payloads: np.ndarray, records: np.ndarray) -> Points | None:
    """The points of rows that are alike, or None when their layout is not the plain one."""
    first, length = bytes(payloads[0]), payloads.shape[1]
    at = 9
    if first[0] != WALL_TIME:
        return None
    steps = np.zeros(len(payloads), dtype=np.uint64)
    if first[at] == STEP:
        at += 1
        for number in range(10):
            steps |= (payloads[:, at].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * number)
            at += 1
            if first[at - 1] < 0x80 or at >= length - 4:
                break
    tag = _tag(first, at)
    if tag is None:
        return None
    wall_times = np.ascontiguousarray(payloads[:, 1:9]).view("<f8").ravel()
    values = np.ascontiguousarray(payloads[:, -4:]).view("<f4").ravel().astype(np.float64)
    return Points(tag, records, steps.view(np.int64), wall_times, values)


def _tag(payload: bytes, at: int) -> str | None:
    """The tag in the rest of a payload, `summary { value { tag simple_value } }` and nothing else; or None."""
    head, length = payload[at : at + 6], len(payload)
    if len(head) < 6 or (head[0], head[2], head[4]) != (SUMMARY, VALUE, TAG):
        return None
    size = length - at - 11
    if (head[1], head[3], head[5]) != (length - at - 2, length - at - 4, size) or payload[-5] != SIMPLE:
        return None
    try:
        return payload[at + 6 : at + 6 + size].decode()
    except UnicodeDecodeError:
        return None

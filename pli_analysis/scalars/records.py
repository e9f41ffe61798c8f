"""Find the records of a TensorBoard event file and check their checksums.

A record is its length (8 bytes), a checksum of those (4), the payload, and a checksum of the payload (4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

LENGTH = struct.Struct("<Q")
HEAD, FRAME = 12, 16
"""Bytes before a payload, and of all that is around it."""
BLOCK = 2**20
"""Places looked at together for the next record."""
LONGEST_SOUGHT = 2**24
"""Bytes of a record that is looked for: most eight bytes are no such length, and need no checksum."""


@dataclass(frozen=True)
class Records:
    """Where the whole records of some bytes lie.

    Attributes:
        starts: [records], of each payload.
        lengths: [records], in bytes.
        end: where the first record begins that is not whole, or whose length is wrong.
        damaged: records passed over because their checksum was wrong.
        lost: whether the length at `end` is wrong, so that nothing says where the next record begins.
    """

    starts: np.ndarray
    lengths: np.ndarray
    end: int
    damaged: int
    lost: bool


def find(data: bytes, check: bool = True) -> Records:
    """The records of an event file, or of a part of it that begins with one, up to a last one that is cut short.

    Args:
        data: its bytes.
        check: whether payloads are held against their checksums; lengths always are.
    """
    heads = _walk(data)
    lengths, message = view(data, "<u8")[heads], view(data, "<u4")[heads + 8]
    wrong = np.flatnonzero(message != _sums_of(lengths))
    lost, whole = len(wrong) > 0, int(wrong[0]) if len(wrong) else len(heads)
    if whole and not lost and _after(heads, lengths) > len(data):
        whole -= 1  # only the last one can be cut short, for no head lies behind it
    end = int(heads[whole]) if whole < len(heads) else _after(heads, lengths)
    starts, lengths = heads[:whole] + HEAD, lengths[:whole].astype(np.int64)
    if not check:
        return Records(starts, lengths, end, 0, lost)
    good = _payloads_agree(data, starts, lengths)
    return Records(starts[good], lengths[good], end, int(len(good) - good.sum()), lost)


def next_head(data: bytes, begin: int) -> int | None:
    """Where a record begins behind one whose length is wrong: the next length with its right checksum.

    Args:
        data: bytes of an event file.
        begin: the first place to look at.

    Returns:
        None when there is no such place.
    """
    end = len(data) - HEAD + 1
    for low in range(begin, end, BLOCK):
        lengths = view(data, "<u8")[low : min(low + BLOCK, end)]
        near = np.flatnonzero(lengths < LONGEST_SOUGHT)
        right = near[view(data, "<u4")[low + near + 8] == _sums_of(lengths[near])]
        if len(right):
            return low + int(right[0])
    return None


def _walk(data: bytes) -> np.ndarray:
    """Where heads lie when every length is true: [heads]. After a wrong one, places that mean nothing."""
    heads, at, last, length_at = [], 0, len(data) - HEAD, view(data, "<u8").item
    while at <= last:
        heads.append(at)
        at += length_at(at) + FRAME
    return np.array(heads, dtype=np.int64)


def _after(heads: np.ndarray, lengths: np.ndarray) -> int:
    """Where the last record ends."""
    return int(heads[-1]) + int(lengths[-1]) + FRAME if len(heads) else 0


def _sums_of(lengths: np.ndarray) -> np.ndarray:
    """The checksum that belongs to each length. A file has few lengths, so each is summed once."""
    from google_crc32c import value as crc

    different = np.unique(lengths)
    sums = masked(np.array([crc(LENGTH.pack(length)) for length in different.tolist()], dtype=np.uint32))
    return sums[np.searchsorted(different, lengths)]


def _payloads_agree(data: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    from google_crc32c import value as crc

    ends = starts + lengths
    sums = [crc(data[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return view(data, "<u4")[ends] == masked(np.array(sums, dtype=np.uint32))


def masked(crc: np.ndarray) -> np.ndarray:
    """Checksums (uint32) as they stand in a file: turned by 15 bits, plus a constant, so that sums of sums differ."""
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


def view(data: bytes, dtype: str) -> np.ndarray:
    """Numbers that begin at each byte: `view(data, "<u8")[at]` is the one at `at`, aligned or not, nothing copied."""
    kind = np.dtype(dtype)
    return np.ndarray((max(0, len(data) - kind.itemsize + 1),), kind, data, strides=(1,))

"""Find the records of a TensorBoard event file and check their checksums.

A record has a length (8 bytes), a checksum of the length (4), the payload, and a checksum of the payload (4).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

LENGTH = struct.Struct("<Q")
HEAD, FRAME = 12, 16
"""Bytes before the payload, and bytes before and after it together."""
BLOCK = 2**20
"""Number of positions searched at once for the next record."""
LONGEST_SOUGHT = 2**24
"""Maximum length of a record in the search for the next one: most positions are ruled out without a checksum."""


@dataclass(frozen=True)
class Records:
    """Positions of the complete records in some bytes.

    Attributes:
        starts: [records] positions of the payloads.
        lengths: [records] lengths of the payloads, in bytes.
        end: position of the first record that is incomplete or has a wrong length.
        damaged: number of records skipped because of a wrong checksum.
        lost: whether the length at `end` is wrong, so that the position of the next record is unknown.
    """

    starts: np.ndarray
    lengths: np.ndarray
    end: int
    damaged: int
    lost: bool


def find(data: bytes, check: bool = True) -> Records:
    """Find the records of an event file, or of a part that begins with a record; an incomplete last one is left out.

    Args:
        data: bytes of the file.
        check: whether to verify the checksums of payloads; those of lengths are always verified.
    """
    heads = _walk(data)
    lengths, sums = view(data, "<u8")[heads], view(data, "<u4")[heads + 8]
    wrong = np.flatnonzero(sums != _sums_of(lengths))
    lost, whole = len(wrong) > 0, int(wrong[0]) if len(wrong) else len(heads)
    if whole and not lost and _after(heads, lengths) > len(data):
        whole -= 1  # only the last record can be incomplete, as no record follows it
    end = int(heads[whole]) if whole < len(heads) else _after(heads, lengths)
    starts, lengths = heads[:whole] + HEAD, lengths[:whole].astype(np.int64)
    if not check:
        return Records(starts, lengths, end, 0, lost)
    good = _payloads_agree(data, starts, lengths)
    return Records(starts[good], lengths[good], end, int(len(good) - good.sum()), lost)


def next_head(data: bytes, begin: int) -> int | None:
    """Return the position of the next record after one with a wrong length: the next length with a matching checksum.

    Args:
        data: bytes of an event file.
        begin: the first position to search.

    Returns:
        None if there is no such position.
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
    """Return the positions of records, [records], if all lengths are right; after a wrong one they mean nothing."""
    heads, at, last, length_at = [], 0, len(data) - HEAD, view(data, "<u8").item
    while at <= last:
        heads.append(at)
        at += length_at(at) + FRAME
    return np.array(heads, dtype=np.int64)


def _after(heads: np.ndarray, lengths: np.ndarray) -> int:
    """Return the position where the last record ends."""
    return int(heads[-1]) + int(lengths[-1]) + FRAME if len(heads) else 0


def _sums_of(lengths: np.ndarray) -> np.ndarray:
    """Return the checksum of each length. A file has few different lengths, so each is computed once."""
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
    """Return checksums (uint32) as stored in a file: rotated by 15 bits, plus a constant."""
    return (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)


def view(data: bytes, dtype: str) -> np.ndarray:
    """Return a view of the numbers that begin at each byte, without a copy: `view(data, "<u8")[at]` begins at `at`."""
    kind = np.dtype(dtype)
    return np.ndarray((max(0, len(data) - kind.itemsize + 1),), kind, data, strides=(1,))

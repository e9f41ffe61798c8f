"""Pool of reusable memory buffers.

It begins at a page's begin. Some processors copy five times slower to where an address, within its page, is a few bytes
above that of the source; numpy's large arrays begin 16 bytes into a page, and so collide with many a tensor in a file.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np

from pli_analysis.runs.file_reader import Files


class BufferPool:
    """Arrays by name, for one thread: each is good until another of its name is taken.

    Args:
        files: how many files may stay open.

    >>> rooms = BufferPool()
    >>> np.shares_memory(rooms.take("now", (2, 3)), rooms.take("now", (2, 2)))
    True
    """

    def __init__(self, files: int = 1) -> None:
        self._kept: dict[str, np.ndarray] = {}
        self.files = Files(files)

    def take(self, name: str, shape: Sequence[int], dtype: np.dtype | type = np.float32) -> np.ndarray:
        """An array of any content."""
        size, kept = math.prod(shape), self._kept.get(name)
        if kept is None or kept.dtype != dtype or kept.size < size:
            kept = self._kept[name] = _pages(size, np.dtype(dtype))
        return kept[:size].reshape(shape)


def _pages(size: int, dtype: np.dtype) -> np.ndarray:
    bytes = np.empty(size * dtype.itemsize + mmap.PAGESIZE, np.uint8)
    start = -bytes.ctypes.data % mmap.PAGESIZE
    return bytes[start : start + size * dtype.itemsize].view(dtype)

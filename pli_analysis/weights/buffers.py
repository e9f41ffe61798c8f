"""Pool of reusable memory buffers.

Buffers start at page boundaries. Some processors copy five times slower if the address of the target within its page is
a few bytes above that of the source. numpy's large arrays start 16 bytes into a page, so that this is common when
tensors are read from files.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np

from pli_analysis.runs.file_reader import Files


class BufferPool:
    """Named buffers for one thread: an array is valid until the same name is taken again.

    Args:
        files: maximum number of open files.

    >>> pool = BufferPool()
    >>> np.shares_memory(pool.take("now", (2, 3)), pool.take("now", (2, 2)))
    True
    """

    def __init__(self, files: int = 1) -> None:
        self._kept: dict[str, np.ndarray] = {}
        self.files = Files(files)

    def take(self, name: str, shape: Sequence[int], dtype: np.dtype | type = np.float32) -> np.ndarray:
        """Return an uninitialized array."""
        size, kept = math.prod(shape), self._kept.get(name)
        if kept is None or kept.dtype != dtype or kept.size < size:
            kept = self._kept[name] = _pages(size, np.dtype(dtype))
        return kept[:size].reshape(shape)


def _pages(size: int, dtype: np.dtype) -> np.ndarray:
    bytes = np.empty(size * dtype.itemsize + mmap.PAGESIZE, np.uint8)
    start = -bytes.ctypes.data % mmap.PAGESIZE
    return bytes[start : start + size * dtype.itemsize].view(dtype)

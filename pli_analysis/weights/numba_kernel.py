"""The sums of squares of `moments` in one compiled loop (numba).

With numpy, the squares of a tensor and of its two differences take five passes over memory, with Python code between
them. The compiled loop reads a block of the tensor at one checkpoint after another, and processes it in one pass.
Importing numba and compiling takes seconds, so that it pays off only if gigabytes are read. All that the loop does not
support (other types, tensors that grow, small ones, sums beyond the range of float32) is done by `moments`.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache

import numpy as np

from pli_analysis.weights.blocks import blocks, is_steady, locations
from pli_analysis.weights.buffers import BufferPool
from pli_analysis.weights.moments import EXACT, RUN, divisor
from pli_analysis.weights.trajectory import TensorTrajectory

WORTH = 2**33
"""Minimum bytes to read for which compiling pays off."""
BLOCK = 2**16
"""Numbers in a block: four blocks fit into a core's cache."""
BIRTH, BEFORE = 0, 2
"""Rows of the loop's buffer: birth weights, and the tensor before the first visit."""

Kernel = Callable[..., int]
"""See `_loop`."""


def kernel(bytes: int) -> Kernel | None:
    """Return the compiled loop, or None if there are too few bytes to read."""
    return compiled() if bytes >= WORTH else None


def sums(track: TensorTrajectory, pool: BufferPool, kernel: Kernel) -> np.ndarray | None:
    """Compute Σ now², Σ (now − birth)², Σ (now − before)², Σ (now − donor)² and Σ donor² of each part of a tensor.

    Returns:
        (5, visits, parts), the last two zero at visits without a donor; None if this loop cannot do it: for a tensor
        that grows, is small or not in float32, for sums beyond float32, or a file that was truncated meanwhile.

    Raises:
        FileNotFoundError: if a checkpoint was removed meanwhile.
        BadInput: if a checkpoint cannot be read.
    """
    visits, position = track.visits, track.visits[0].position
    if position.type != "F32" or math.prod(position.shape) <= EXACT or not is_steady(track):
        return None
    folds = track.folds(visits[0], position.shape)
    found, together = np.zeros((5, len(visits), folds[1])), pool.files.most // 2
    own, theirs = locations(track)
    for block in blocks(folds, BLOCK):
        run = divisor(block.folds[2], RUN)
        buffer = pool.take("fused", (4, block.size // run, run))
        start = 4 * block.start
        pool.files.read(position.path, position.offset + start, buffer[BIRTH])
        buffer[BEFORE] = buffer[BIRTH]
        for first in range(0, len(visits), together):
            some = slice(first, min(first + together, len(visits)))
            count = some.stop - first
            of_block = np.zeros((5, count, block.folds[1]))
            files = (*own.handles(some, start, pool), *theirs.handles(some, start, pool))
            if kernel(*files, buffer.ctypes.data, buffer, block.folds[2] // run, of_block) < count:
                return None
            found[:, some, block.part : block.part + block.folds[1]] += of_block
            if count % 2:
                buffer[BEFORE] = buffer[1]
    return found if np.isfinite(found).all() else None


@cache
def compiled() -> Kernel:
    """Return the compiled loop; compiling takes seconds."""
    import numba

    # Sums may be reordered, so that they are vectorized, as in a BLAS.
    kernel: Kernel = numba.njit(
        "i8(i8[::1], i8[::1], i8[::1], i8[::1], i8, f4[:, :, ::1], i8, f8[:, :, ::1])",
        nogil=True,
        fastmath={"reassoc", "contract", "nsz"},
    )(_loop())
    return kernel


def _loop() -> Kernel:
    pread = ctypes.CDLL(None).pread
    pread.argtypes, pread.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64], ctypes.c_ssize_t

    def loop(
        handles: np.ndarray,
        offsets: np.ndarray,
        handles_of_donors: np.ndarray,
        offsets_of_donors: np.ndarray,
        address: int,
        buffer: np.ndarray,
        each: int,
        sums: np.ndarray,
    ) -> int:
        """Read a block at some visits; sum squares in float32 along each run of numbers, and over runs in float64.

        Args:
            handles, offsets: file descriptors and offsets, (visits,) int64.
            handles_of_donors, offsets_of_donors: the same for donors; a descriptor below 0 if there is none.
            address: memory address of `buffer`.
            buffer: (4, rows, run) float32: birth weights, two alternating rows for now and before, donor.
            each: number of successive rows that belong to one part.
            sums: (5, visits, parts) float64, to which the results are added.

        Returns:
            Number of visits that could be read completely.
        """
        rows, run, parts = buffer.shape[1], buffer.shape[2], sums.shape[2]
        width = 4 * rows * run
        for visit in range(handles.size):
            here, before = 1 + visit % 2, 2 - visit % 2
            copied = handles_of_donors[visit] >= 0
            if pread(handles[visit], address + here * width, width, offsets[visit]) != width:
                return visit
            if (
                copied
                and pread(handles_of_donors[visit], address + 3 * width, width, offsets_of_donors[visit]) != width
            ):
                return visit
            for row in range(rows):
                whole, first, second = np.float32(0), np.float32(0), np.float32(0)
                third, fourth = np.float32(0), np.float32(0)
                for at in range(run):
                    now = buffer[here, row, at]
                    near, far = now - buffer[0, row, at], now - buffer[before, row, at]
                    whole += now * now
                    first += near * near
                    second += far * far
                if copied:
                    for at in range(run):
                        donor = buffer[3, row, at]
                        from_donor = buffer[here, row, at] - donor
                        third += from_donor * from_donor
                        fourth += donor * donor
                part = row // each % parts
                sums[0, visit, part] += whole
                sums[1, visit, part] += first
                sums[2, visit, part] += second
                sums[3, visit, part] += third
                sums[4, visit, part] += fourth
        return handles.size

    return loop

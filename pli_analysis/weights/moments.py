"""Sums of squares over the parts of a tensor.

The squares of float32 tensors with more than `EXACT` numbers are summed in float32 over runs of at most `RUN` numbers,
and runs are summed in float64. The relative error of a run is at most 37 · 2⁻²⁴ if it is summed in 32 lanes of 32
squares, as in a BLAS, and 133 · 2⁻²⁴ in 8 lanes. Errors of many runs cancel, so that sums are precise to about 1e-8,
ten times better than float32 weights. All other sums are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from pli_analysis.weights.buffers import BufferPool

TOGETHER = 2**19
"""Numbers subtracted at once, over several visits: a few such arrays fit into a core's cache."""
RUN = 2**10
EXACT = 2**16


class Squares:
    """Computes sums of squares.

    Args:
        pool: buffers for differences.

    >>> Squares(BufferPool())(np.array([[3.0, 4.0, 1.0, 0.0]]), [np.zeros((1, 4))], (1, 2, 2)).tolist()
    [[[25.0, 1.0]], [[25.0, 1.0]]]
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool

    def __call__(self, now: np.ndarray, others: Sequence[np.ndarray], folds: tuple[int, int, int]) -> np.ndarray:
        """Compute Σ now² and Σ (now − other)² of each part of a tensor at some checkpoints.

        Args:
            now: (visits, numbers), the tensor at each checkpoint, contiguous float32 or float64.
            others: arrays of its shape and type, or (1, numbers) if equal at all checkpoints.
            folds: (outer, parts, inner): the tensor's shape with all axes before and after the parts combined.

        Returns:
            (1 + len(others), visits, parts) in float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if now.dtype != np.float64 and now.shape[1] > EXACT:
                sums = self._sums(now, others, folds)
                if np.isfinite(sums).all():
                    return sums
            return self._sums(now.astype(np.float64), [other.astype(np.float64) for other in others], folds)

    def _sums(self, now: np.ndarray, others: Sequence[np.ndarray], folds: tuple[int, int, int]) -> np.ndarray:
        run = divisor(folds[2], RUN)
        rows, *against = (array.reshape(len(array), -1, run) for array in (now, *others))
        found = np.empty((1 + len(others), *rows.shape[:2]), now.dtype)
        np.vecdot(rows, rows, out=found[0])
        step = max(TOGETHER // max(rows[0].size, 1), 1)
        between = self._pool.take("difference", (min(step, len(rows)), *rows.shape[1:]), rows.dtype)
        for start in range(0, len(rows) if against else 0, step):
            some = slice(start, start + step)
            here = rows[some]
            for other, of_other in zip(against, found[1:], strict=True):
                difference = np.subtract(here, other[some] if len(other) > 1 else other, out=between[: len(here)])
                np.vecdot(difference, difference, out=of_other[some])
        return found.reshape(*found.shape[:2], folds[0], folds[1], -1).sum(axis=(2, 4), dtype=np.float64)


@cache
def divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is at most `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0) if number else 1


def folds_of(shape: Sequence[int], kept: Sequence[int]) -> tuple[int, int, int]:
    """Combine the axes of a shape before, within and after the kept axes, which are adjacent.

    >>> folds_of((3, 2, 4, 5), (1, 2)), folds_of((3, 2), ())
    ((3, 8, 5), (1, 1, 6))
    """
    if not kept:
        return 1, 1, math.prod(shape)
    first, last = kept[0], kept[-1] + 1
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])

"""Sums of squares over the parts of a tensor, of its weights and of their distances from others.

Float32 tensors beyond `EXACT` numbers are squared in float32 along runs of at most `RUN` numbers, and runs are summed
in float64. One run errs by at most 37 · 2⁻²⁴ where it is added up in 32 lanes of 32 squares each, as a BLAS does, and
by 133 · 2⁻²⁴ in 8 lanes; errors of many runs cancel, so that sums are right to about 1e-8, ten times finer than
float32 weights themselves. All else is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from pli_analysis.weights.fused import Kernel
from pli_analysis.weights.rooms import Rooms

BLOCK = 2**18
"""Numbers that are worked on at once: a few such arrays stay in a core's cache."""
RUN = 2**10
EXACT = 2**16


class Squares:
    """Adds up squares.

    Args:
        rooms: memory for differences.
        kernel: what does two differences at once, see `pli_analysis.weights.fused`; without it, numpy does each.

    >>> Squares(Rooms())(np.array([[3.0, 4.0], [1.0, 0.0]]), [np.zeros((2, 2))], (1, 2, 2)).tolist()
    [[25.0, 1.0], [25.0, 1.0]]
    """

    def __init__(self, rooms: Rooms, kernel: Kernel | None = None) -> None:
        self._rooms, self._kernel = rooms, kernel

    def __call__(self, now: np.ndarray, others: Sequence[np.ndarray], folds: tuple[int, int, int]) -> np.ndarray:
        """Σ now² and Σ (now − other)² of each part of a tensor.

        Args:
            now: the tensor, contiguous, in float32 or float64.
            others: arrays of its shape and type.
            folds: (outer, parts, inner): its shape when only the axis that numbers the parts is left apart.

        Returns:
            (1 + len(others), parts) in float64.
        """
        if now.dtype != np.float64 and now.size > EXACT:
            with np.errstate(over="ignore", invalid="ignore"):
                sums = self._sums(now, others, folds)
            if np.isfinite(sums).all():
                return sums
        return self._sums(now.astype(np.float64), [other.astype(np.float64) for other in others], folds)

    def _sums(self, now: np.ndarray, others: Sequence[np.ndarray], folds: tuple[int, int, int]) -> np.ndarray:
        run = _divisor(folds[2], RUN)
        rows, *against = (array.reshape(-1, run) for array in (now, *others))
        found = np.empty((1 + len(others), len(rows)), now.dtype)
        if self._kernel is not None and len(against) > 1 and now.dtype == np.float32:
            self._kernel(rows, against[0], against[1], found[:3])
            self._differences(rows, against[2:], found[3:])
        else:
            np.vecdot(rows, rows, out=found[0])
            self._differences(rows, against, found[1:])
        return found.reshape(len(found), folds[0], folds[1], -1).sum(axis=(1, 3), dtype=np.float64)

    def _differences(self, rows: np.ndarray, others: Sequence[np.ndarray], found: np.ndarray) -> None:
        step = max(BLOCK // max(rows.shape[1], 1), 1)
        between = self._rooms.take("difference", (min(step, len(rows)), rows.shape[1]), rows.dtype)
        for start in range(0, len(rows) if others else 0, step):
            piece = slice(start, start + step)
            here = rows[piece]
            for other, sums in zip(others, found, strict=True):
                difference = np.subtract(here, other[piece], out=between[: len(here)])
                np.vecdot(difference, difference, out=sums[piece])


@cache
def _divisor(number: int, most: int) -> int:
    """The greatest divisor up to `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0) if number else 1


def folds_of(shape: Sequence[int], kept: Sequence[int]) -> tuple[int, int, int]:
    """A shape with all before and all after the kept axes, which are neighbours, multiplied up.

    >>> folds_of((3, 2, 4, 5), (1, 2)), folds_of((3, 2), ())
    ((3, 8, 5), (1, 1, 6))
    """
    if not kept:
        return 1, 1, math.prod(shape)
    first, last = kept[0], kept[-1] + 1
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])

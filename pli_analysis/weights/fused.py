"""Squares of a tensor and of two differences from it in one pass, compiled by numba.

numpy takes five passes over memory for them. Importing numba and compiling takes about a second, so that it pays only
where gigabytes are read; without numba, numpy does all of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np

WORTH = 2**33
"""Bytes to be read from which on compiling pays."""

Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""Of now, one, other, each (rows, run) in float32 and contiguous, and (3, rows) that is written: Σ now², Σ (now − one)²
and Σ (now − other)² of each row, added up in float32."""


def kernel(bytes: int) -> Kernel | None:
    """The kernel, where so many bytes are worth compiling it and numba is installed."""
    return _compiled() if bytes >= WORTH and importlib.util.find_spec("numba") else None


@cache
def _compiled() -> Kernel:
    import numba

    # The order of a sum is left free: so it is spread over the lanes of a core's registers, as a BLAS does.
    compiled: Kernel = numba.njit(
        "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1])", nogil=True, fastmath={"reassoc", "contract", "nsz"}
    )(_squares)
    return compiled


def _squares(now: np.ndarray, one: np.ndarray, other: np.ndarray, found: np.ndarray) -> None:
    for row in range(now.shape[0]):
        whole, first, second = np.float32(0), np.float32(0), np.float32(0)
        for at in range(now.shape[1]):
            here = now[row, at]
            near, far = here - one[row, at], here - other[row, at]
            whole += here * here
            first += near * near
            second += far * far
        found[0, row], found[1, row], found[2, row] = whole, first, second

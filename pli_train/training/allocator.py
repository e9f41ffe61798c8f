"""Keep the memory of large tensors between steps.

The C library hands a large tensor's memory back to the kernel when it is freed, and the kernel clears every page before
it gives it out again: a training step of a small model on a CPU spends a fifth of its time on that. Told to keep what
was freed, a process holds on to the most it ever needed, which a training step needs again anyway.
"""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt: bytes free at the heap's end before it shrinks, and blocks outside the heap."""


def keep() -> bool:
    """Keep freed memory from now on, in the whole process. False where the C library has no such thing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, or Windows
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, 2**31 - 1))

"""Derive every random seed from the run's seed, a purpose and a number.

So a resumed run, a twin run and every rank of a cluster draw the same random numbers without sharing state.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed for one purpose.

    >>> derive(0, "mask", 7) == derive(0, "mask", 7)
    True
    >>> derive(0, "mask", 7) == derive(0, "dropout", 7)
    False
    """
    text = "/".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

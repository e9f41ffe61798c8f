"""A bar for a long reading, with rate and time left; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
import time

PATIENCE = 1.0
"""Seconds before a bar appears: what is over sooner needs none."""


class Bar:
    """Called with (done, total), as often as one likes.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        self._what, self._began, self._drawn = what, time.monotonic(), 0.0
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        """Draw, unless it is too soon; the last call clears the line."""
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        took = now - self._began
        if done >= total:
            self._write("")
        elif took > PATIENCE and now - self._drawn > 0.1:
            self._drawn = now
            self._write(line(done, total, took, self._what))

    def _write(self, text: str) -> None:
        if text or self._width:
            sys.stderr.write(f"\r{text:<{self._width}}" + ("" if text else "\r"))
            sys.stderr.flush()
            self._width = len(text)


def line(done: int, total: int, took: float, what: str) -> str:
    """What a bar says.

    >>> line(30, 120, 10.0, "pairs")
    '30 of 120 pairs, 3.0 a second, 30 s left'
    """
    if not done:
        return f"0 of {total} {what}"
    rate = done / took
    left = (total - done) / rate
    told = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
    return f"{done} of {total} {what}, {rate:.1f} a second, {told} left"

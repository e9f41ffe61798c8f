"""What a person sees on stderr while a run trains: a bar with rate and time left, and a line when something happens."""

from __future__ import annotations

import time

from pli_train.core.cli import console

EVERY = 15.0
"""Seconds between lines where stderr is no terminal that can be drawn on."""


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Take a line that people would want to read."""

    def begin(self, done: int, total: int) -> None:
        """Training is about to go from `done` to `total` steps."""

    def step(self, done: int, note: str) -> None:
        """`done` steps are done; `note` says how it is going."""

    def end(self) -> None:
        """Training is over."""


class Shown(Silent):
    """Shows lines and a bar on stderr; where that is no terminal, a line now and then instead of the bar."""

    def __init__(self) -> None:
        self._bar = console.Bar("steps")
        self._total, self._from, self._began, self._last = 0, 0, 0.0, 0.0

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        console.put(line)

    def begin(self, done: int, total: int) -> None:
        """Time the bar from here."""
        self._total, self._from, self._bar = total, done, console.Bar("steps", done)
        self._began = self._last = time.monotonic()

    def step(self, done: int, note: str) -> None:
        """Move the bar, or print a line when the last one is a while ago."""
        if console.is_drawable():
            self._bar(done, self._total, note)
        elif (now := time.monotonic()) - self._last > EVERY:
            self._last = now
            self.say(console.bar(done, self._total, now - self._began, "steps", self._from, note))

    def end(self) -> None:
        """Take the bar away."""
        console.erase()

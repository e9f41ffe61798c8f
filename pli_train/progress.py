"""What a person sees on stderr while a run trains: a bar with rate and time left, and a line when something happens."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds between lines where stderr is no terminal."""


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
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._total, self._began, self._from, self._last = 0, 0.0, 0, 0.0

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, done: int, total: int) -> None:
        """Draw the bar."""
        self._total, self._from, self._began = total, done, time.monotonic()
        self._last = self._began
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", total=total, completed=done, note="")
            self._bar.start()

    def step(self, done: int, note: str) -> None:
        """Move the bar, or print a line when the last one is a while ago."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            left = (self._last - self._began) / max(done - self._from, 1) * (self._total - done)
            self.say(f"step {done}/{self._total}  {note}  {left:.0f} s left")

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

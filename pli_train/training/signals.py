"""Stop a run cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class StopSignal:
    """Context manager that sets `asked` on SIGINT or SIGTERM. It has no effect outside the main thread.

    Args:
        say: called with one line when a signal arrives.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        self._say("stopping at the end of this step …")

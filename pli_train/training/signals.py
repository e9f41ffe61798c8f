"""Stop cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any


class StopSignal:
    """Context manager that counts requests to stop. It has no effect outside the main thread.

    Args:
        say: called with one line when a signal arrives.
        lines: line for the first signal, for the second, …; the last one is repeated.
        numbers: signals that request a stop. SIGHUP is left alone where it is ignored, as `nohup` sets it.

    Attributes:
        asked: whether there was a request.
        times: number of requests.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        lines: Sequence[str] = ("stopping at the end of this step …",),
        numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        self.asked, self.times = False, 0
        self._say, self._lines, self._numbers = say, lines, numbers
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        with suppress(ValueError):
            for number in self._numbers:
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        self.times += 1
        self._say(self._lines[min(self.times, len(self._lines)) - 1])

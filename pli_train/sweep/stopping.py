"""Ask a study to stop, by Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class StopRequest:
    """Counts requests to stop while it is entered; outside the main thread it changes nothing.

    Args:
        say: called with a line at each request.

    Attributes:
        times: how often it was asked to stop.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.times = 0
        self._say = say
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether it was asked to stop."""
        return self.times > 0

    def __enter__(self) -> StopRequest:
        with suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _ask(self, number: int, frame: object) -> None:
        self.times += 1
        self._say("stopping: workers save; once more kills them" if self.times == 1 else "killing workers")

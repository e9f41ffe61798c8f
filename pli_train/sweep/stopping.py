"""Handle requests to stop a study: Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class StopRequest:
    """Context manager that counts requests to stop; it has no effect outside the main thread.

    Args:
        say: called with a line at each request.

    Attributes:
        times: number of requests.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.times = 0
        self._say = say
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether there was a request to stop."""
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
        self._say("stopping: workers write checkpoints (again: kill them)" if self.times == 1 else "killing workers")

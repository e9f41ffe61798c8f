"""Progress and status output on stderr.

Lines go through `logging`, so that who uses the packages from Python hears of them what he asks for: `say` speaks at
the level INFO, what is read, kept and timed at DEBUG.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

LOGGERS = [logging.getLogger(package) for package in ("pli_train", "pli_analysis")]
LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Environment variables that keep the chatter of libraries off stderr: what matters, we say."""
PATIENCE = 1.0
"""Seconds before a bar appears: what is over sooner needs none."""
INTERVAL = 0.1
"""Seconds between two drawings."""

_log = logging.getLogger(__name__)
_live: Progress | None = None
"""The bar on the screen."""


def configure(quiet: bool = False, verbose: bool = False) -> None:
    """Decide how much this process says: errors alone, lines and bars, or also what goes on inside.

    It is to be called before torch and transformers are imported, as they look at the environment then.
    """
    for logger in LOGGERS:
        logger.handlers = [_OnStderr()]
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        logger.propagate = False
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|accelerate|transformers")
    # What else libraries have to say, by `logging` or `warnings`, goes the way of our own lines, or nowhere.
    logging.lastResort = _OnStderr(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [_OnStderr()]
    logging.disable(logging.WARNING if quiet else logging.NOTSET)


def is_quiet() -> bool:
    """Whether only errors are to be said. Python's own beginning, warnings and errors, is not that: bars are drawn."""
    return not _log.isEnabledFor(logging.WARNING)


def say(*lines: str) -> None:
    """Say some lines, unless --quiet was asked for."""
    for line in lines:
        _log.info("%s", line)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say with --verbose how long something took, when it is done."""
    began = time.perf_counter()
    yield
    _log.debug("%s: %.2f s", what, time.perf_counter() - began)


def put(line: str) -> None:
    """Write a line to stderr, above the bar if there is one."""
    if _live is None:
        print(plain(line), file=sys.stderr)
    else:
        from rich.text import Text

        _live.console.print(Text(plain(line)), soft_wrap=True)


def plain(text: str) -> str:
    r"""Text without anything that a terminal would obey. Bytes of a file's name that is no text are told as such.

    >>> plain("a\x1b[31m\u202eb\udcff")
    'a�[31m�b\\xff'
    """
    return "".join(sign if sign.isprintable() else _describe(sign) for sign in text)


def _describe(sign: str) -> str:
    """What stands for a character that cannot be printed."""
    return f"\\x{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else "�"


def is_drawable() -> bool:
    """Whether stderr is a terminal that a bar can be drawn on, and nobody asked for quiet."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


class Bar:
    """Progress of a long computation, drawn by rich: on terminals alone, and only when it takes longer than `PATIENCE`.

    Called with (done, total), as often as one likes, and with a note on how it goes. The last call, at which all is
    done, takes the bar away.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        self._what, self._began, self._last = what, time.monotonic(), 0.0
        self._drawn: Progress | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Draw, unless it is too soon."""
        now = time.monotonic()
        if done >= total:
            erase()
            _log.debug("%d %s: %.2f s", total, self._what, now - self._began)
        elif now - self._began > PATIENCE and now - self._last > INTERVAL and is_drawable():
            self._last = now
            self._draw(done, total, plain(note))

    def _draw(self, done: int, total: int, note: str) -> None:
        global _live
        if self._drawn is None or self._drawn is not _live:
            erase()
            _live = self._drawn = _progress()
            self._drawn.add_task(self._what, completed=done, total=total, note=note)
            self._drawn.start()
        self._drawn.update(self._drawn.task_ids[0], completed=done, total=total, note=note)
        self._drawn.refresh()


def _progress() -> Progress:
    """A bar that is drawn when asked: nothing moves between two calls, so that no thread need draw it again."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.completed:.0f} of {task.total:.0f} {task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=sys.stderr, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto"),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def erase() -> None:
    """Take the bar away, if there is one."""
    global _live
    bar, _live = _live, None
    if bar is not None:
        with suppress(OSError):  # of a terminal that is gone
            bar.stop()


def progress_line(done: int, total: int, took: float, what: str, begun: int = 0, note: str = "") -> str:
    """Progress as a line of text, for where no bar can be drawn.

    Args:
        took: seconds since `begun` were done.

    >>> progress_line(30, 120, 10.0, "pairs")
    '30 of 120 pairs, 3.0 a second, 30 s left'
    """
    message = f"{done} of {total} {what}"
    if done > begun:
        rate = (done - begun) / took
        left = (total - done) / rate
        message += f", {rate:.1f} a second, " + (f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
    return f"{message}, {note}" if note else message


class _OnStderr(logging.Handler):
    """Lines as they are, without a level or a time."""

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            put(line)

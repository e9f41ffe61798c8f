"""Progress and status output on stderr.

Lines go through `logging`, so that programs that import the packages can configure them: `say` logs at level INFO;
reading, caching and timing are logged at DEBUG.
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
"""Environment variables that silence libraries on stderr."""
PATIENCE = 1.0
"""Seconds before a progress bar appears."""
INTERVAL = 0.1
"""Minimum seconds between two updates of a progress bar."""

_log = logging.getLogger(__name__)
_live: Progress | None = None
"""The progress bar on the screen."""


def configure(quiet: bool = False, verbose: bool = False) -> None:
    """Set the verbosity of this process: errors only, status lines and progress bars, or debug lines too.

    Call it before torch and transformers are imported, because they read the environment on import.
    """
    for logger in LOGGERS:
        logger.handlers = [_OnStderr()]
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        logger.propagate = False
    for name, value in LIBRARIES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|accelerate|transformers")
    # Print further logs and warnings of libraries like our own lines, or nowhere with `quiet`.
    logging.lastResort = _OnStderr(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").handlers = [_OnStderr()]
    logging.disable(logging.WARNING if quiet else logging.NOTSET)


def is_quiet() -> bool:
    """Return whether only errors are printed. False for Python's default level, which includes warnings."""
    return not _log.isEnabledFor(logging.WARNING)


def say(*lines: str) -> None:
    """Print lines on stderr, unless --quiet is set."""
    for line in lines:
        _log.info("%s", line)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log the duration of the block with --verbose."""
    began = time.perf_counter()
    yield
    _log.debug("%s: %.2f s", what, time.perf_counter() - began)


def put(line: str) -> None:
    """Write a line to stderr, above the progress bar if there is one."""
    if _live is None:
        print(plain(line), file=sys.stderr)
    else:
        from rich.text import Text

        _live.console.print(Text(plain(line)), soft_wrap=True)


def plain(text: str) -> str:
    r"""Return text without terminal control characters. Undecodable bytes of file names are shown in hexadecimal.

    >>> plain("a\x1b[31m\u202eb\udcff")
    'a�[31m�b\\xff'
    """
    return "".join(sign if sign.isprintable() else _describe(sign) for sign in text)


def _describe(sign: str) -> str:
    """Return the replacement of a character that cannot be printed."""
    return f"\\x{ord(sign) - 0xDC00:02x}" if 0xDC80 <= ord(sign) <= 0xDCFF else "�"


def is_drawable() -> bool:
    """Return whether a progress bar can be drawn: stderr is a terminal and --quiet is not set."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


class Bar:
    """A progress bar for a long computation: only on terminals, and only if it takes longer than `PATIENCE`.

    Call it with (done, total) and an optional note, as often as needed. The last call, with done = total, removes it.

    Args:
        what: what is counted, e.g. `pairs`.
    """

    def __init__(self, what: str) -> None:
        self._what, self._began, self._last = what, time.monotonic(), 0.0
        self._drawn: Progress | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Draw the bar, unless it is too early."""
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
    """Return a bar without automatic refresh: nothing changes between two calls, so no thread is needed."""
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
    """Remove the progress bar, if there is one."""
    global _live
    bar, _live = _live, None
    if bar is not None:
        with suppress(OSError):  # the terminal may be closed
            bar.stop()


def progress_line(done: int, total: int, took: float, what: str, begun: int = 0, note: str = "") -> str:
    """Return progress as a line of text, for outputs without a progress bar.

    Args:
        done, total: number done, and in total.
        took: seconds since `begun` were done.
        what: what is counted, e.g. `pairs`.
        begun: number done at the start.
        note: text to append.

    >>> progress_line(30, 120, 10.0, "pairs")
    '30 of 120 pairs, 3.0 a second, 30 s left'
    """
    line = f"{done} of {total} {what}"
    if done > begun:
        rate = (done - begun) / took
        left = (total - done) / rate
        line += f", {rate:.1f} a second, " + (f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
    return f"{line}, {note}" if note else line


class _OnStderr(logging.Handler):
    """Print lines without level and time."""

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            put(line)

"""Progress and status output on stderr.

Lines go through `logging`, so that who uses the packages from Python hears of them what he asks for: `say` speaks at
the level INFO, what is read, kept and timed at DEBUG.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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

_log = logging.getLogger(__name__)
_drawn = 0
"""Characters of the bar on the line that the cursor is on."""


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
    """Write a line to stderr, in place of the bar if there is one: that one draws itself again, below."""
    erase()
    print(plain(line), file=sys.stderr)


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
    """Whether stderr is a terminal that can go back to the start of a line, and nobody asked for quiet."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not is_quiet()


class Bar:
    """How far something long is, with rate and time left: a line that is written anew, on terminals alone.

    Called with (done, total), as often as one likes, and with a word on how it goes.

    Args:
        what: is counted.
        begun: how many were done before.
    """

    def __init__(self, what: str, begun: int = 0) -> None:
        self._what, self._begun, self._began, self._last = what, begun, time.monotonic(), 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Draw, unless it is too soon; the last call takes the bar away."""
        now = time.monotonic()
        if done <= self._begun:  # what comes in several stretches is timed from the start of each
            self._began = now
        took = now - self._began
        if done >= total:
            erase()
            _log.debug("%d %s: %.2f s", total, self._what, took)
        elif took > PATIENCE and now - self._last > 0.1 and is_drawable():
            self._last = now
            _draw(bar(done, total, took, self._what, self._begun, note))


def bar(done: int, total: int, took: float, what: str, begun: int = 0, note: str = "") -> str:
    """What a bar says.

    >>> bar(30, 120, 10.0, "pairs")
    '30 of 120 pairs, 3.0 a second, 30 s left'
    """
    message = f"{done} of {total} {what}"
    if done > begun:
        rate = (done - begun) / took
        left = (total - done) / rate
        message += f", {rate:.1f} a second, " + (f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
    return f"{message}, {note}" if note else message


def erase() -> None:
    """Take the bar away, if there is one."""
    if _drawn:
        _draw("")


def _draw(text: str) -> None:
    """Put a text where the bar is. Blanks take away what was longer: no control code but the carriage return."""
    global _drawn
    text = text[: shutil.get_terminal_size().columns - 1]
    sys.stderr.write(f"\r{text:<{_drawn}}" + ("" if text else "\r"))
    sys.stderr.flush()
    _drawn = len(text)


class _OnStderr(logging.Handler):
    """Lines as they are, without a level or a time."""

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            put(line)

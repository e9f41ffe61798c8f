"""Exceptions whose message is one line for the user: what, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class PliError(Exception):
    """Work that failed for a reason the user can act on. Its text is the line they see; exit code 1."""

    exit_code = 1


class BadInput(PliError):
    """Input that cannot be used (an argument, a config, a corpus, a folder). Exit code 2.

    `mistakes` keeps several findings apart, one line each, so that all are shown at once.
    """

    exit_code = 2

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise RuntimeError where a library written in Rust panics, which to Python is a BaseException of its own."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RuntimeError(str(error)) from None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be, or None."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `known`, or nothing when none is near.

    >>> did_you_mean("warmup", ["warmup_ratio", "lr"])
    "; did you mean 'warmup_ratio'?"
    >>> did_you_mean("zebra", ["lr"])
    ''
    """
    near = nearest(word, known)
    return f"; did you mean '{near}'?" if near else ""


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many others there are, as a line tells them.

    >>> some(["a", "b"]), some(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 others')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} other{'s' if more > 1 else ''}" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def not_written(path: Path, error: Exception, run: Path, size: int = 0) -> str:
    """One line on a write of a run that failed: what, why, and what to do.

    Args:
        path: what was to be there.
        error: Python's, or safetensors' own, which has the number of the system's error in its text.
        run: the folder to resume from.
        size: bytes that were to be written.
    """
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    reason = os.strerror(number).lower() if number else str(error)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    remedy = f"free {size // 1_000_000 + 1} MB" if full else "see to the disk"
    return f"{path}: not written ({reason}); {remedy}, then go on with: pli-train resume {run}"


MISFITS = (ValueError, LookupError, TypeError, ArithmeticError, StopIteration, RuntimeError)
"""What numpy and einops raise for sizes that contradict each other."""


LONGEST = 300
"""Characters of a library's message that are passed on."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of a library's error; its kind where it has no message.

    >>> first_line(ValueError("too long\nsee the manual")), first_line(KeyError())
    ('too long', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:LONGEST]


def last_line(error: BaseException) -> str:
    r"""Return the last line of a library's error, where a strict config says what is wrong, without its kind.

    >>> last_line(TypeError("Class validation error for 'x':\n    ValueError: it is negative"))
    'it is negative'
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return line.strip().removeprefix("ValueError: ")[:LONGEST]


def in_a_line(error: BaseException) -> str:
    """Return the message of a library's error in one line."""
    return " ".join(str(error).split())[:LONGEST]

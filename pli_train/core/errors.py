"""Exceptions with a one-line message for the user: what, where, and what to do."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class PliError(Exception):
    """An error that the user can act on. Its text is printed as one line; exit code 1."""

    exit_code = 1


class BadInput(PliError):
    """Invalid input (an argument, a config, a corpus, a folder). Exit code 2.

    `mistakes` holds one line for each mistake, so that all of them are shown at once.
    """

    exit_code = 2

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise RuntimeError for a panic of a library written in Rust, which Python sees as a BaseException."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise RuntimeError(str(error)) from None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the word in `known` that is most similar to `word`, or None."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the most similar word in `known`, or an empty text if none is similar.

    >>> did_you_mean("warmup", ["warmup_ratio", "lr"])
    "; did you mean 'warmup_ratio'?"
    >>> did_you_mean("zebra", ["lr"])
    ''
    """
    near = nearest(word, known)
    return f"; did you mean '{near}'?" if near else ""


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names as text, with the number of the others.

    >>> some(["a", "b"]), some(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c and 2 others')
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} other{'s' if more > 1 else ''}" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural if needed.

    >>> counted(1, "file"), counted(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def not_written(path: Path, error: Exception, run: Path, size: int = 0) -> str:
    """Return one line about a failed write to a run: what, why, and what to do.

    Args:
        path: the file or folder that was not written.
        error: Python's error, or that of safetensors, whose text includes the number of the system's error.
        run: the folder of the run to resume.
        size: bytes that the write needs.
    """
    match = re.search(r"os error (\d+)", str(error))
    number = int(match[1]) if match else getattr(error, "errno", None)
    reason = os.strerror(number).lower() if number else str(error)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    remedy = f"free {size // 1_000_000 + 1} MB" if full else "check the disk"
    return f"{path}: not written ({reason}); {remedy}, then run: pli-train resume {run}"


MISFITS = (ValueError, LookupError, TypeError, ArithmeticError, StopIteration, RuntimeError)
"""Exceptions that numpy and einops raise for inconsistent sizes."""

LONGEST = 300
"""Maximum number of characters shown of a library's message."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of a library's error, or its class name if it has no message.

    >>> first_line(ValueError("too long\nsee the manual")), first_line(KeyError())
    ('too long', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:LONGEST]


def last_line(error: BaseException) -> str:
    r"""Return the last line of a library's error, where strict configs of transformers state the problem.

    >>> last_line(TypeError("Class validation error for 'x':\n    ValueError: it is negative"))
    'it is negative'
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return line.strip().removeprefix("ValueError: ")[:LONGEST]


def in_a_line(error: BaseException) -> str:
    """Return the message of a library's error as one line."""
    return " ".join(str(error).split())[:LONGEST]

"""What a user did that cannot work, said in one line: what, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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

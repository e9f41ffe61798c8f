"""Which column of records holds the text."""

from __future__ import annotations

from pli_train.errors import BadInput
from pli_train.texts.kinds import NoText

USUAL = "text"
"""The column that is meant when none is named."""
MOST = 12
"""Columns named in a message."""


class Columns:
    """The columns of a file, and what each holds: `text`, or a word for something else; those in columns as `a.b`.

    Args:
        loose: whether all values are written as text, as in CSV, so that any column can be asked for by its name.
    """

    def __init__(self, loose: bool = False) -> None:
        self._loose, self._holds = loose, dict[str, str]()

    def add(self, name: str, holds: str) -> None:
        """Take in what a column holds, once more or for the first time. What is empty (`null`) tells nothing."""
        before = self._holds.get(name, "null")
        if before in ("null", holds):
            self._holds[name] = holds
        elif holds != "null":
            self._holds[name] = "text" if self._loose else "a mixture"

    def chosen(self, wanted: str, where: object, option: str) -> str:
        """The column that holds the text: the one asked for, or where that is USUAL and not there, the only one.

        Args:
            wanted: the one asked for.
            where, option: whose columns they are, and what the user sets to name one, for messages.

        Raises:
            NoText: when there is none.
            BadInput: when it may be any of several, or holds something else.
        """
        holds = self._holds.get(wanted)
        if holds in ("text", "null") or (holds is not None and self._loose):
            return wanted
        if holds is not None:
            raise BadInput(f"{where}: its column '{wanted}' holds {holds}, not text; {self._told()}")
        texts = [name for name, held in self._holds.items() if held == "text" and "." not in name]
        if wanted != USUAL or not texts:
            what = "no column with text" if wanted == USUAL else f"no column '{wanted}'"
            raise NoText(f"with {what}", f"has {what}: {self._told()}, so set {option}")
        if len(texts) > 1:
            raise BadInput(f"{where}: which column holds the text? {self._told()}: set {option}")
        return texts[0]

    def _told(self) -> str:
        told = [name if holds == "text" else f"{name} ({holds})" for name, holds in self._holds.items()]
        return f"it has {', '.join(told[:MOST])}{', …' if len(told) > MOST else ''}" if told else "it has no columns"


def cleaned(text: str) -> str:
    r"""A text with halves of surrogate pairs, which JSON can have alone and no encoding has, replaced.

    >>> cleaned("a\ud800b")
    'a�b'
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

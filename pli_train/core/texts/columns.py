"""Choose the column of a table or record that holds the text."""

from __future__ import annotations

from typing import Any

from pli_train.core.errors import BadInput
from pli_train.core.texts.file_types import NoText

USUAL = "text"
"""The column that is meant when none is named."""
FIRST = 100
"""Records by which it is known what columns hold."""
KINDS = {type(None): "null", dict: "a table", list: "a list", bool: "true or false"}
LONGEST = 40
"""Characters of a column's name in a message."""
MOST = 12
"""Columns named in a message."""


def kind_of(value: Any) -> str:
    """What a value is, in words. Names, labels and addresses, of one word without a space, are not `text` yet.

    >>> [kind_of(value) for value in ("two words", "漢字", "b3f1", None, [1], 3)]
    ['text', 'text', 'single words', 'null', 'a list', 'a number']
    """
    if isinstance(value, str):
        return "single words" if value and value.isascii() and not any(map(str.isspace, value)) else "text"
    return KINDS.get(type(value), "a number")


class Columns:
    """The columns of a file, and what each holds: a word of `kind_of` or another; those in columns as `a.b`.

    Args:
        loose: whether all values are written as text, as in CSV, so that any column can be asked for by its name.
    """

    def __init__(self, loose: bool = False) -> None:
        self._loose, self._holds, self._inner = loose, dict[str, str](), set[str]()

    def add(self, name: str, holds: str, inner: bool = False) -> None:
        """Take in what a column holds, once more or for the first time. What is empty (`null`) tells nothing.

        Args:
            inner: whether it lies within another: such a one has to be asked for by name.
        """
        if inner:
            self._inner.add(name)
        kinds = {self._holds.get(name, "null"), holds} - {"null"}
        if len(kinds) > 1:
            together = kinds <= {"text", "single words"} or (
                self._loose and kinds <= {"text", "single words", "a number"}
            )
            kinds = {"text" if "text" in kinds else "single words"} if together else {"a mixture"}
        self._holds[name] = kinds.pop() if kinds else "null"

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
        if holds in ("text", "single words", "null") or (holds is not None and self._loose):
            return wanted
        if holds is not None:
            raise BadInput(f"{where}: its column '{wanted}' holds {holds}, not text; {self._describe()}")
        texts = [name for name, held in self._holds.items() if held == "text" and name not in self._inner]
        if wanted != USUAL or not texts:
            what = "no column with text" if wanted == USUAL else f"no column '{wanted}'"
            raise NoText(f"with {what}", f"has {what}: {self._describe()}, so set {option}")
        if len(texts) > 1:
            raise BadInput(f"{where}: which column holds the text? {self._describe()}: set {option}")
        return texts[0]

    def _describe(self) -> str:
        short = {" ".join(name.split())[:LONGEST]: holds for name, holds in self._holds.items()}
        message = [name if holds == "text" else f"{name} ({holds})" for name, holds in short.items()]
        return (
            f"it has {', '.join(message[:MOST])}{', …' if len(message) > MOST else ''}"
            if message
            else "it has no columns"
        )


def cleaned(text: str) -> str:
    r"""A text with halves of surrogate pairs, which JSON can have alone and no encoding has, replaced.

    >>> cleaned("a\ud800b")
    'a�b'
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

"""Choose the column of a table or record that holds the text."""

from __future__ import annotations

from typing import Any

from pli_train.core.errors import BadInput
from pli_train.core.texts.file_types import NoText

USUAL = "text"
"""The default column."""
FIRST = 100
"""Number of records read to determine what columns hold."""
KINDS = {type(None): "null", dict: "a table", list: "a list", bool: "true or false"}
LONGEST = 40
"""Maximum characters of a column's name in a message."""
MOST = 12
"""Maximum number of columns named in a message."""


def kind_of(value: Any) -> str:
    """Return the kind of a value in words. Text without a space, such as a label or an address, is `single words`.

    >>> [kind_of(value) for value in ("two words", "漢字", "b3f1", None, [1], 3)]
    ['text', 'text', 'single words', 'null', 'a list', 'a number']
    """
    if isinstance(value, str):
        return "single words" if value and value.isascii() and not any(map(str.isspace, value)) else "text"
    return KINDS.get(type(value), "a number")


class Columns:
    """The columns of a file and the kind of value in each, as in `kind_of`; nested columns are named `a.b`.

    Args:
        loose: whether all values are written as text, as in CSV, so that any column can be chosen by name.
    """

    def __init__(self, loose: bool = False) -> None:
        self._loose, self._holds, self._inner = loose, dict[str, str](), set[str]()

    def add(self, name: str, holds: str, inner: bool = False) -> None:
        """Add the kind of a value in a column. `null` does not change the column's kind.

        Args:
            name: the column.
            holds: kind of the value.
            inner: whether the column is nested in another: such a column has to be chosen by name.
        """
        if inner:
            self._inner.add(name)
        kinds = {self._holds.get(name, "null"), holds} - {"null"}
        if len(kinds) > 1:
            together = kinds <= {"text", "single words"} or (
                self._loose and kinds <= {"text", "single words", "a number"}
            )
            kinds = {"text" if "text" in kinds else "single words"} if together else {"mixed types"}
        self._holds[name] = kinds.pop() if kinds else "null"

    def chosen(self, wanted: str, where: object, option: str) -> str:
        """Return the column that holds the text: `wanted`, or if that is USUAL and missing, the only column of text.

        Args:
            wanted: name of the column.
            where, option: the file, and the setting by which the user names a column, for messages.

        Raises:
            NoText: if there is no column of text.
            BadInput: if there are several, or the column holds something else.
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
        names = [name if holds == "text" else f"{name} ({holds})" for name, holds in short.items()]
        return f"it has {', '.join(names[:MOST])}{', …' if len(names) > MOST else ''}" if names else "it has no columns"


def cleaned(text: str) -> str:
    r"""Return text with lone surrogates, which JSON allows but no encoding does, replaced.

    >>> cleaned("a\ud800b")
    'a�b'
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

"""Read text files: keep a fraction, split into training and held-out documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pli_train.core.errors import BadInput, counted
from pli_train.core.texts import Texts
from pli_train.core.texts.reading import Segment
from pli_train.data.documents import Documents, fingerprint

WORD = 1000
"""Characters in which the start of a word is looked for, where a text is cut that has no lines."""
COPIES = 0.01
"""Share of the held-out documents that may be in the training text too before a line tells it."""


def documents(texts: Texts, share: float, fraction: float, about: str) -> Documents:
    """A corpus of texts, split into train and eval by document; a single one is cut instead.

    Args:
        share: the part kept for evaluation.
        fraction: the part of the documents (or of the one's lines) to use at all.

    Raises:
        BadInput: when there is too little text to split.
    """
    full = np.flatnonzero(~texts.is_blank)
    # A document's place in the order of hashes decides, so that a new one moves nobody.
    ranked = full[np.argsort(texts.names[full], kind="stable")]
    kept = ranked[: _count(fraction, len(full))] if fraction < 1 and len(full) > 2 else ranked
    each_is_one = len(texts.is_blank) == len(texts.files)
    files = counted(len(texts.files), "file")
    message = counted(len(full), "file") if each_is_one else f"{counted(len(full), 'document')} in {files}"
    name, about = fingerprint(texts.fingerprint, share, fraction), f"{about}: {message}"
    if len(kept) == 1:
        # A fraction of several documents that comes to one is spent by choosing it.
        train, eval, note = _cut(texts, kept, share, fraction if len(full) == 1 else 1.0)
        return Documents(train, eval, name, about, (*texts.notes, f"{texts.root}: one document, {note}"))
    aside = kept[: _count(share, len(kept))]
    notes = (*texts.notes, *_copies(texts, kept[len(aside) :], aside))
    return Documents(_Chosen(texts, kept[len(aside) :]), _Chosen(texts, aside), name, about, notes)


def _count(share: float, of: int) -> int:
    """So many of them: at least one, and never all."""
    return min(max(1, round(share * of)), of - 1)


@dataclass(frozen=True)
class _Chosen:
    """The pieces of some documents, read anew each time.

    Attributes:
        locations: of the documents among all.
        part: what of the only one's pieces is meant, if not all.
    """

    texts: Texts
    locations: np.ndarray
    part: Callable[[Iterable[Segment]], Iterator[Segment]] = iter

    def __iter__(self) -> Iterator[Segment]:
        chosen = np.zeros(len(self.texts.is_blank), dtype=bool)
        chosen[self.locations] = True
        return chain.from_iterable(map(self.part, self.texts.documents(chosen)))


def _copies(texts: Texts, train: np.ndarray, aside: np.ndarray) -> list[str]:
    """A line on held-out documents that are in the training text too, where they are many."""
    count = int(np.isin(texts.contents[aside], texts.contents[train]).sum())
    if count <= COPIES * len(aside):
        return []
    return [f"{texts.root}: {count} of {len(aside)} held-out documents are in the training text too, word for word"]


# --- a single document ----------------------------------------------------------------------------------------------


def _cut(texts: Texts, position: np.ndarray, share: float, fraction: float) -> tuple[_Chosen, _Chosen, str]:
    """The first part of the only document for training, its end for evaluation, and in words where it is cut.

    It is cut at a line; where too little of it is before or behind, as in a text of one line, within the line.
    """
    whole = _Chosen(texts, position)
    lines, characters = (sum(map(count, (segment.text for segment in whole))) for count in (_lines, len))
    start, stop = line_cut(lines, share, fraction)
    parts = (
        _Chosen(texts, position, _Between(0, start, by_line)),
        _Chosen(texts, position, _Between(start, stop, by_line)),
    )
    before, behind = (_size(part) for part in parts)
    where = "at a line"
    if not before or not behind or (behind > before and share < 0.5):
        stop = max(2, round(fraction * characters))
        start = _word_start(whole, min(max(1, stop - round(share * stop)), stop - 1))
        parts = (
            _Chosen(texts, position, _Between(0, start, by_sign)),
            _Chosen(texts, position, _Between(start, stop, by_sign)),
        )
        before, behind = (_size(part) for part in parts)
        where = "at a word"
    if not before or not behind:
        raise BadInput(f"{texts.root} is too small to split into train and eval: it has {characters} characters")
    return *parts, f"cut {where}: the last {behind:,} of its characters are held out, {before:,} are trained on"


def line_cut(lines: int, share: float, fraction: float) -> tuple[int, int]:
    """Up to which line a text is trained on, and up to which the rest is held out.

    >>> line_cut(4, share=0.25, fraction=1.0)
    (3, 4)
    """
    stop = max(1, round(fraction * lines))
    return stop - max(1, round(share * stop)), stop


def by_line(text: str) -> list[str]:
    """A text as lines with their ends."""
    return text.splitlines(keepends=True)


def by_sign(text: str) -> str:
    """A text as characters."""
    return text


def _lines(text: str) -> int:
    return len(text.splitlines())


@dataclass(frozen=True)
class _Between:
    """What of a document lies between two places.

    Attributes:
        start, stop: counted in units.
        units: of a piece, which together make it up.
    """

    start: int
    stop: int
    units: Callable[[str], list[str] | str]

    def __call__(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        at = 0
        for segment in segments:
            units = self.units(segment.text)
            first, last = (min(max(0, position - at), len(units)) for position in (self.start, self.stop))
            at += len(units)
            if first < last:
                yield Segment("".join(units[first:last]), False)
        yield Segment("", True)


def _size(part: Iterable[Segment]) -> int:
    """Characters of a part, 0 if it is blank."""
    size, is_blank = 0, True
    for segment in part:
        size += len(segment.text)
        is_blank = is_blank and not segment.text.strip()
    return 0 if is_blank else size


def _word_start(whole: Iterable[Segment], position: int) -> int:
    """The space before a word that is nearest before a place, or the place where there is none near."""
    first = max(1, position - WORD)
    near = "".join(segment.text for segment in _Between(first, position + 1, by_sign)(whole))
    found = [match.start() for match in re.finditer(r"(?<=\S)\s(?=\S)", near)]
    return first + found[-1] if found else position

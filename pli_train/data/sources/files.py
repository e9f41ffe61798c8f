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
"""Number of characters in which to look for the start of a word when splitting a text without lines."""
COPIES = 0.01
"""Share of held-out documents that may also be in the training text without a warning."""


def documents(texts: Texts, share: float, fraction: float, about: str) -> Documents:
    """Split texts into train and eval by document; a single document is split within.

    Args:
        texts: the documents.
        share: share for evaluation.
        fraction: share of the documents (or of the lines of a single one) to use at all.
        about: description of the corpus, to which the number of documents is added.

    Raises:
        BadInput: if there is too little text to split.
    """
    full = np.flatnonzero(~texts.is_blank)
    # Sorted by hashes, so that adding a document does not move others between train and eval.
    ranked = full[np.argsort(texts.names[full], kind="stable")]
    kept = ranked[: _count(fraction, len(full))] if fraction < 1 and len(full) > 2 else ranked
    each_is_one = len(texts.is_blank) == len(texts.files)
    files = counted(len(texts.files), "file")
    size = counted(len(full), "file") if each_is_one else f"{counted(len(full), 'document')} in {files}"
    name, about = fingerprint(texts.fingerprint, share, fraction), f"{about}: {size}"
    if len(kept) == 1:
        # If the fraction of several documents is one document, that document is used as a whole.
        train, eval, note = _split_one(texts, kept, share, fraction if len(full) == 1 else 1.0)
        return Documents(train, eval, name, about, (*texts.notes, f"{texts.root}: one document, {note}"))
    aside = kept[: _count(share, len(kept))]
    notes = (*texts.notes, *_copies(texts, kept[len(aside) :], aside))
    return Documents(_Chosen(texts, kept[len(aside) :]), _Chosen(texts, aside), name, about, notes)


def _count(share: float, of: int) -> int:
    """Return this share of a number, at least one and less than all."""
    return min(max(1, round(share * of)), of - 1)


@dataclass(frozen=True)
class _Chosen:
    """The segments of some documents, read again for each iteration.

    Attributes:
        texts: all documents.
        locations: indices of the documents.
        part: function that selects a part of a single document's segments.
    """

    texts: Texts
    locations: np.ndarray
    part: Callable[[Iterable[Segment]], Iterator[Segment]] = iter

    def __iter__(self) -> Iterator[Segment]:
        chosen = np.zeros(len(self.texts.is_blank), dtype=bool)
        chosen[self.locations] = True
        return chain.from_iterable(map(self.part, self.texts.documents(chosen)))


def _copies(texts: Texts, train: np.ndarray, aside: np.ndarray) -> list[str]:
    """Return a line about held-out documents that are also in the training text, if there are many."""
    count = int(np.isin(texts.contents[aside], texts.contents[train]).sum())
    if count <= COPIES * len(aside):
        return []
    return [f"{texts.root}: {count} of {len(aside)} held-out documents are also in the training text, word for word"]


# --- a single document ----------------------------------------------------------------------------------------------


def _split_one(texts: Texts, document: np.ndarray, share: float, fraction: float) -> tuple[_Chosen, _Chosen, str]:
    """Split a single document: its first part for training, its end for evaluation, and a description of the split.

    It is split at a line end; or within a line, if one part would be too small, as in a text of one line.
    """
    whole = _Chosen(texts, document)
    lines, characters = (sum(map(count, (segment.text for segment in whole))) for count in (_lines, len))
    start, stop = line_cut(lines, share, fraction)
    parts = (
        _Chosen(texts, document, _Between(0, start, by_line)),
        _Chosen(texts, document, _Between(start, stop, by_line)),
    )
    before, behind = (_size(part) for part in parts)
    where = "at a line"
    if not before or not behind or (behind > before and share < 0.5):
        stop = max(2, round(fraction * characters))
        start = _word_start(whole, min(max(1, stop - round(share * stop)), stop - 1))
        parts = (
            _Chosen(texts, document, _Between(0, start, by_sign)),
            _Chosen(texts, document, _Between(start, stop, by_sign)),
        )
        before, behind = (_size(part) for part in parts)
        where = "at a word"
    if not before or not behind:
        raise BadInput(f"{texts.root} is too small to split into train and eval: it has {characters} characters")
    return *parts, f"cut {where}: the last {behind:,} of its characters are held out, {before:,} are trained on"


def line_cut(lines: int, share: float, fraction: float) -> tuple[int, int]:
    """Return the line numbers at which the training part and the held-out part end.

    >>> line_cut(4, share=0.25, fraction=1.0)
    (3, 4)
    """
    stop = max(1, round(fraction * lines))
    return stop - max(1, round(share * stop)), stop


def by_line(text: str) -> list[str]:
    """Split a text into lines with their ends."""
    return text.splitlines(keepends=True)


def by_sign(text: str) -> str:
    """Return a text as its characters."""
    return text


def _lines(text: str) -> int:
    return len(text.splitlines())


@dataclass(frozen=True)
class _Between:
    """Selects the part of a document between two positions.

    Attributes:
        start, stop: positions, counted in units.
        units: function that splits a segment into units (lines or characters).
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
    """Return the number of characters of a part, 0 if it is blank."""
    size, is_blank = 0, True
    for segment in part:
        size += len(segment.text)
        is_blank = is_blank and not segment.text.strip()
    return 0 if is_blank else size


def _word_start(whole: Iterable[Segment], position: int) -> int:
    """Return the last space before a position that precedes a word, or the position itself if none is near."""
    first = max(1, position - WORD)
    near = "".join(segment.text for segment in _Between(first, position + 1, by_sign)(whole))
    spaces = [match.start() for match in re.finditer(r"(?<=\S)\s(?=\S)", near)]
    return first + spaces[-1] if spaces else position

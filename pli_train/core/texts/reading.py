"""Read the documents of a file of any kind, in segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pli_train.core.errors import BadInput
from pli_train.core.texts import parquet, records, streams
from pli_train.core.texts.file_types import ARCHIVES, File, NoText, ends_of

LONGEST_SEGMENT = 2**22
"""Maximum characters of a segment; longer documents are split."""
NEAR = 2**16
"""Number of characters before the end of a segment in which to look for a place to split."""
BREAKS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))
"""Where a text can be split without changing its tokens: after a line, or else before a space."""


class Segment(NamedTuple):
    """A part of a document; `last` is True for the one that ends it."""

    text: str
    last: bool


def documents(file: File) -> Iterator[tuple[str, Iterable[Segment]]]:
    """Yield the name and segments of each document in order, including blank ones.

    Raises:
        NoText: if the file is not text, perhaps after some documents.
        BadInput: if the file is damaged, or the column of the text is not clear.
    """
    try:
        are_records, texts = texts_of(file)
        if not are_records:
            yield file.name, segments(texts)
            return
        for number, text in enumerate(texts):
            yield f"{file.name}:{number}", segments([text])
    except OSError as error:
        raise BadInput(f"{file.path}: cannot be read ({error.strerror or error})") from None


def texts_of(file: File) -> tuple[bool, Iterator[str]]:
    """Return whether a file holds records, and the text of each record; or else its text, in chunks.

    Raises NoText and BadInput, immediately or while reading.
    """
    end = ends_of(file.path)[0]
    if end in ARCHIVES:
        raise NoText("packed as an archive", f"is an archive: unpack it, and use the folder ({end} is not read)")
    if end == ".parquet":
        return True, parquet.texts(file)
    readers: dict[str, Callable[[File], Iterator[str]]] = {
        ".jsonl": records.of_lines,
        ".ndjson": records.of_lines,
        ".csv": records.of_table,
        ".tsv": records.of_table,
    }
    if end in readers:
        return True, readers[end](file)
    if end == ".json" and (texts := records.of_json(file)) is not None:
        return True, texts
    return False, streams.characters(file.path)


def remarks_on(file: File) -> list[str]:
    """Return lines about unusual content of a file. Raises NoText and BadInput as reading it does."""
    return records.odd_header(file) if ends_of(file.path)[0] in (".csv", ".tsv") else []


def segments(texts: Iterable[str]) -> Iterator[Segment]:
    """Join a document's chunks into segments of at most LONGEST_SEGMENT characters.

    A long document is split where tokens end, if possible: see BREAKS.
    """
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        while length > LONGEST_SEGMENT:
            whole = "".join(held)
            cut = _break(whole)
            yield Segment(whole[:cut], False)
            held, length = [whole[cut:]], length - cut
    yield Segment("".join(held), True)


def _break(text: str) -> int:
    """Return where to split a text that is longer than a segment."""
    for pattern in BREAKS:
        ends = [match.end() for match in pattern.finditer(text, max(1, LONGEST_SEGMENT - NEAR), LONGEST_SEGMENT)]
        if ends:
            return ends[-1]
    return LONGEST_SEGMENT

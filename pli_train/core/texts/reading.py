"""Read the documents of a file of any kind, in segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pli_train.core.errors import BadInput
from pli_train.core.texts import parquet, records, streams
from pli_train.core.texts.file_types import ARCHIVES, File, NoText, ends_of

LONGEST_SEGMENT = 2**22
"""Characters of a piece; only a document that is longer is cut."""
NEAR = 2**16
"""Characters before that place in which a line end is looked for."""
BREAKS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))
"""Where a text may be cut so that words, and with them tokens, stay what they are: after a line, before a space."""


class Segment(NamedTuple):
    """A part of a document, in order; `last` in the one that ends it."""

    text: str
    last: bool


def documents(file: File) -> Iterator[tuple[str, Iterable[Segment]]]:
    """Name and pieces of each document in order; blank ones are among them.

    Raises:
        NoText: where it is found to hold none, perhaps after some documents.
        BadInput: when it is damaged, or does not say which column holds the text.
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
    """Whether a file is of records, and the text of each record in order; else its one text, bit by bit.

    Raises NoText and BadInput, at once or while it is read.
    """
    end = ends_of(file.path)[0]
    if end in ARCHIVES:
        raise NoText("packed as an archive", f"is an archive: unpack it, and name the folder ({end} is not read)")
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
    if end == ".json" and (found := records.of_json(file)) is not None:
        return True, found
    return False, streams.characters(file.path)


def remarks_on(file: File) -> list[str]:
    """A line each on what is odd in a file whose texts were read. Raises NoText and BadInput as reading it does."""
    return records.odd_header(file) if ends_of(file.path)[0] in (".csv", ".tsv") else []


def segments(texts: Iterable[str]) -> Iterator[Segment]:
    """A document that comes bit by bit, in pieces of LONGEST_SEGMENT characters at most.

    It is cut where tokens end in any case, if there is such a place: see BREAKS.
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
    """Where to cut a text that is longer than a piece."""
    for locations in BREAKS:
        ends = [found.end() for found in locations.finditer(text, max(1, LONGEST_SEGMENT - NEAR), LONGEST_SEGMENT)]
        if ends:
            return ends[-1]
    return LONGEST_SEGMENT

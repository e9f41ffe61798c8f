"""Choose the reader for a file by its ending."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pli_train.core.texts import File

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""Files of records. `.json` is one too where it holds any."""
KNOWN = (".txt", ".md", ".json", *TABLES, *COMPRESSED)
"""Ends by which a name that is not there is known for a file's, and not for a data set's on the hub."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
LEFT_OUT = ("node_modules", "__pycache__")
"""Folders of what others wrote or Python compiled."""


class NoText(Exception):
    """A file that holds no text. Its words tell of this file; `kind` is what it shares with others, for a count."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def ends_of(path: Path) -> tuple[str, str]:
    """The end of a file's name in lower case, without that of its compression; and that.

    >>> ends_of(Path("a/b.JSONL.gz")), ends_of(Path("b.txt")), ends_of(Path("README"))
    (('.jsonl', '.gz'), ('.txt', ''), ('', ''))
    """
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
    inner = Path(path.stem) if compression else path
    return inner.suffix.lower(), compression


def texts_of(file: File) -> tuple[bool, Iterator[str]]:
    """Whether a file is of records, and the text of each record in order; else its one text, bit by bit.

    Raises NoText and BadInput, at once or while it is read.
    """
    from pli_train.core.texts import parquet, records, streams

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
    from pli_train.core.texts import records

    return records.odd_header(file) if ends_of(file.path)[0] in (".csv", ".tsv") else []

"""A file that may hold text, and what the ending of its name means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pli_train.core.errors import BadInput

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


@dataclass(frozen=True)
class File:
    """A file that may hold text.

    Attributes:
        path: where it is.
        name: what it is called in its corpus: its path below the root.
        column: of its records, which holds the text.
        option: what the user sets to name another column, for messages.
    """

    path: Path
    name: str
    column: str = ""
    option: str = ""

    def state(self) -> tuple[int, int]:
        """Size and time of change: others tell that it is no longer the file that was read."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror or error})") from None
        return found.st_size, found.st_mtime_ns

"""A file that may hold text, and the meaning of its suffix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pli_train.core.errors import BadInput

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""Suffixes of files of records. A `.json` file may hold records too."""
KNOWN = (".txt", ".md", ".json", *TABLES, *COMPRESSED)
"""Suffixes by which a missing path is recognized as a file, and not as a data set on the hub."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
LEFT_OUT = ("node_modules", "__pycache__")
"""Folders that are skipped: other packages' code and compiled files."""


class NoText(Exception):
    """A file that holds no text. The message is about this file; `kind` is the reason, for counting files."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def ends_of(path: Path) -> tuple[str, str]:
    """Return the suffix of a file's name without its compression, and the suffix of the compression, in lower case.

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
        path: path of the file.
        name: its name in the corpus: the path relative to the root.
        column: the column of its records that holds the text.
        option: the setting by which the user names another column, for messages.
    """

    path: Path
    name: str
    column: str = ""
    option: str = ""

    def state(self) -> tuple[int, int]:
        """Return size and modification time, to detect that the file has changed. Raises BadInput if unreadable."""
        try:
            stats = self.path.stat()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror or error})") from None
        return stats.st_size, stats.st_mtime_ns

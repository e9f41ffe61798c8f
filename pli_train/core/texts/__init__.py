"""Read text files as documents: plain, JSON, CSV or Parquet, compressed or not.

A plain text file is one document, and so is each record of JSON Lines, CSV or Parquet (`records`, `parquet`). Files may
be compressed; their encoding is UTF-8 or set by a byte-order mark (`streams`). Documents are read in segments, so a
large file needs no more memory than a small one. Files of a folder that are not text are left out and reported.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pli_train.core.errors import BadInput, counted
from pli_train.core.texts.file_types import LEFT_OUT, File, NoText
from pli_train.core.texts.reading import Segment, documents, remarks_on

LISTED = 3
"""Maximum number of names in a line about files left out."""


class Texts:
    """The documents of some files, read again for each use.

    Args:
        root: the file or folder that holds them.
        files: the files in reading order.
        left_out: files left out without reading them: reason → names.

    Attributes:
        files: the files that hold text.
        names, contents: (documents,) uint64: hashes of each document's name and text.
        is_blank: (documents,) bool: whether each document is only white space.
        fingerprint: a short hash of the names and texts of the documents that are not blank.
        left_out: reason → the names of the files left out.
        records, empty: number of records, and of records without text.

    Raises:
        BadInput: if there is no text, a file is damaged, or the column of the text is not clear.
    """

    def __init__(self, root: Path, files: Sequence[File], left_out: Mapping[str, list[str]] | None = None) -> None:
        self.root = root
        self.files: list[File] = []
        self.left_out: dict[str, list[str]] = dict(left_out or {})
        self.records = self.empty = 0
        self._remarks: list[str] = []
        self._states: list[tuple[int, int]] = []
        self._names, self._contents, self._blank = array("Q"), array("Q"), array("B")
        self._digest, self._some = hashlib.sha256(b"["), False
        for file in files:
            self._take(file, alone=len(files) == 1 and not left_out)
        self._digest.update(b"]")
        self.fingerprint = self._digest.hexdigest()[:16]
        self.names, self.contents = (np.array(each, dtype=np.uint64) for each in (self._names, self._contents))
        self.is_blank = np.array(self._blank, dtype=bool)
        if self.is_blank.all():
            raise BadInput("; ".join([f"{root} holds no text", *self.notes]))

    def _take(self, file: File, alone: bool) -> None:
        """Add a file's documents, or record why it is left out."""
        digest, some, count, state = self._digest.copy(), self._some, len(self._names), file.state()
        counts = self.records, self.empty
        try:
            self._count(file)
            self._remarks += remarks_on(file)
        except NoText as error:
            if alone:
                raise BadInput(f"{file.path}: {error}") from None
            self._digest, self._some = digest, some
            self.records, self.empty = counts
            for column in (self._names, self._contents, self._blank):
                del column[count:]
            self.left_out.setdefault(error.kind, []).append(file.name)
        else:
            self.files.append(file)
            self._states.append(state)

    def _count(self, file: File) -> None:
        """Add the documents of one file."""
        for name, parts in documents(file):
            content, is_blank = hashlib.sha256(), True
            for part in parts:
                content.update(part.text.encode())
                is_blank = is_blank and not part.text.strip()
            self._names.append(_number(hashlib.sha256(os.fsencode(name)).digest()))
            self._contents.append(_number(content.digest()))
            self._blank.append(is_blank)
            is_record = name != file.name
            self.records, self.empty = self.records + is_record, self.empty + (is_record and is_blank)
            if not is_blank:
                # The bytes of repr([(name, hash), …]), so that fingerprints of older runs stay the same.
                self._digest.update((", " * self._some + repr((name, content.hexdigest()))).encode())
                self._some = True

    @property
    def notes(self) -> list[str]:
        """Lines about files left out, records without text, and unusual column names."""
        lines = []
        if count := sum(map(len, self.left_out.values())):
            reasons = []
            for kind, names in self.left_out.items():
                more = ", …" if len(names) > LISTED else ""
                reasons.append(f"{len(names)} {kind} ({', '.join(names[:LISTED])}{more})")
            all_files = counted(len(self.files) + count, "file")
            lines.append(f"{self.root}: left out {count} of {all_files}: {'; '.join(reasons)}")
        if self.empty:
            lines.append(f"{self.root}: skipped {self.empty} of {counted(self.records, 'record')} without text")
        return [*lines, *self._remarks]

    def documents(self, chosen: np.ndarray) -> Iterator[Iterable[Segment]]:
        """Yield the segments of each chosen document, in order.

        Args:
            chosen: (documents,) bool: whether to yield each document.

        Raises:
            BadInput: if a file has changed.
        """
        at = 0
        for file, state in zip(self.files, self._states, strict=True):
            if file.state() != state:
                raise BadInput(f"{file.path}: changed while it was read; start again")
            for _, parts in documents(file):
                if chosen[at]:
                    yield parts
                at += 1


def of_path(path: Path, column: str, option: str) -> Texts:
    """Return the documents of a file, or of all files below a folder.

    Args:
        path: the file or folder.
        column: the column of records that holds the text; if it is `text` and missing, the only column of text.
        option: the setting by which the user names another column, for messages.

    Raises:
        BadInput: if the path is missing or holds no text.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.is_file():
        return Texts(path, [File(path, path.name, column, option)])
    if not path.is_dir():
        raise BadInput(f"{path}: is neither a file nor a folder")
    paths = below(path)
    files = [File(each, str(each.relative_to(path)), column, option) for each in paths if each.is_file()]
    left_out: dict[str, list[str]] = {}
    for each in paths:
        if not each.is_file():
            kind = "not a regular file" if each.exists() else "a broken link"
            left_out.setdefault(kind, []).append(str(each.relative_to(path)))
    return Texts(path, files, left_out)


def below(folder: Path) -> list[Path]:
    """Return everything below a folder except folders, sorted: files, pipes and broken links.

    Hidden names and LEFT_OUT are skipped. Links to folders are not followed.
    """
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in LEFT_OUT]
        paths += (Path(parent) / name for name in names if not name.startswith("."))
    return sorted(paths)


def _unreadable(error: OSError) -> None:
    raise BadInput(f"{error.filename}: cannot be read ({error.strerror})") from None


def _number(digest: bytes) -> int:
    """Return the first eight bytes of a hash as a number, in big-endian order so that numbers sort like hashes."""
    return int.from_bytes(digest[:8])

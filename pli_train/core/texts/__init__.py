"""Read text files of any kind as documents, compressed ones too.

A plain text is one document; a record of JSON Lines, CSV or Parquet is one too (`records`, `parquet`). Files may be
compressed and of any encoding that a byte-order mark tells (`streams`). Documents come in pieces, so that the largest
file takes no more memory than a small one. What is no text is left out of a folder and told.
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
"""Names in a line on what is left out."""


class Texts:
    """The documents of some files, read anew each time they are asked for.

    Args:
        root: the file or folder that they are of.
        files: in the order in which they are to be read.
        left_out: what is left out unread: why → names.

    Attributes:
        files: those that hold text.
        names, contents: (documents,) uint64: hashes of each document's name and text.
        is_blank: (documents,) bool: whether it is nothing but white space.
        fingerprint: a short hash of the names and texts of those that are not.
        left_out: why → the names of the files that are left out for it.
        records, empty: how many records there are, and how many of them have no text.

    Raises:
        BadInput: when there is no text, or a file is damaged or does not say which column holds the text.
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
        """Take in a file's documents, or note why it is left out."""
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
        """Take in the documents of one file."""
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
                # The same bytes as of repr([(name, hash), …]), which names the corpora of older runs.
                self._digest.update((", " * self._some + repr((name, content.hexdigest()))).encode())
                self._some = True

    @property
    def notes(self) -> list[str]:
        """A line each on files that are left out, on records without text, and on odd names of columns."""
        lines = []
        if count := sum(map(len, self.left_out.values())):
            message = []
            for kind, names in self.left_out.items():
                more = ", …" if len(names) > LISTED else ""
                message.append(f"{len(names)} {kind} ({', '.join(names[:LISTED])}{more})")
            all_files = counted(len(self.files) + count, "file")
            lines.append(f"{self.root}: left out {count} of {all_files}: {'; '.join(message)}")
        if self.empty:
            lines.append(f"{self.root}: passed over {self.empty} of {counted(self.records, 'record')}, without text")
        return [*lines, *self._remarks]

    def documents(self, chosen: np.ndarray) -> Iterator[Iterable[Segment]]:
        """The pieces of some documents, in order.

        Args:
            chosen: (documents,) bool.

        Raises:
            BadInput: when a file is no longer what it was.
        """
        at = 0
        for file, state in zip(self.files, self._states, strict=True):
            if file.state() != state:
                raise BadInput(f"{file.path}: was changed while it was read; start again")
            for _, parts in documents(file):
                if chosen[at]:
                    yield parts
                at += 1


def of_path(path: Path, column: str, option: str) -> Texts:
    """The documents of a file, or of all files below a folder.

    Args:
        column: of records, which holds the text; where it is `text` and there is none, the only one of strings.
        option: what the user sets to name another, for messages.

    Raises:
        BadInput: when it is missing, or holds no text.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    if path.is_file():
        return Texts(path, [File(path, path.name, column, option)])
    if not path.is_dir():
        raise BadInput(f"{path}: is neither a file nor a folder")
    found = below(path)
    files = [File(each, str(each.relative_to(path)), column, option) for each in found if each.is_file()]
    left_out: dict[str, list[str]] = {}
    for each in found:
        if not each.is_file():
            kind = "not a regular file" if each.exists() else "linked to nothing"
            left_out.setdefault(kind, []).append(str(each.relative_to(path)))
    return Texts(path, files, left_out)


def below(folder: Path) -> list[Path]:
    """What is below a folder and is no folder, in order: files, and what only looks like one (pipes, broken links).

    Hidden ones and LEFT_OUT are passed over, links to folders not followed.
    """
    found: list[Path] = []
    for position, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in LEFT_OUT]
        found += (Path(position) / name for name in names if not name.startswith("."))
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise BadInput(f"{error.filename}: cannot be read ({error.strerror})") from None


def _number(digest: bytes) -> int:
    """The first eight bytes of a hash, so that numbers sort as hashes do."""
    return int.from_bytes(digest[:8])

"""Read text files of any kind as documents, compressed ones too.

A plain text is one document; a record of JSON Lines, CSV or Parquet is one too (`records`, `parquet`). Files may be
compressed and of any encoding that a byte-order mark tells (`streams`). Documents come in pieces, so that the largest
file takes no more memory than a small one. What is no text is left out of a folder and told.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pli_train.core.errors import BadInput, counted
from pli_train.core.texts.kinds import LEFT_OUT, NoText, remarks_on, texts_of

LONGEST_SEGMENT = 2**22
"""Characters of a piece; only a document that is longer is cut."""
NEAR = 2**16
"""Characters before that place in which a line end is looked for."""
BREAKS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))
"""Where a text may be cut so that words, and with them tokens, stay what they are: after a line, before a space."""
LISTED = 3
"""Names in a line on what is left out."""


class Segment(NamedTuple):
    """A part of a document, in order; `last` in the one that ends it."""

    text: str
    last: bool


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

    def documents(self) -> Iterator[tuple[str, Iterable[Segment]]]:
        """Name and pieces of each document in order; blank ones are among them.

        Raises:
            NoText: where it is found to hold none, perhaps after some documents.
            BadInput: when it is damaged, or does not say which column holds the text.
        """
        try:
            are_records, texts = texts_of(self)
            if not are_records:
                yield self.name, segments(texts)
                return
            for number, text in enumerate(texts):
                yield f"{self.name}:{number}", segments([text])
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror or error})") from None

    def state(self) -> tuple[int, int]:
        """Size and time of change: others tell that it is no longer the file that was read."""
        try:
            message = self.path.stat()
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read ({error.strerror or error})") from None
        return message.st_size, message.st_mtime_ns


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
        for name, parts in file.documents():
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
            for _, parts in file.documents():
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


def _number(digest: bytes) -> int:
    """The first eight bytes of a hash, so that numbers sort as hashes do."""
    return int.from_bytes(digest[:8])

"""Open compressed files, and detect text encodings."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pli_train.core.errors import BadInput
from pli_train.core.texts.file_types import NoText, ends_of

CHUNK = 2**20
LONGEST = 2**27
"""Maximum characters of a line or a record, several copies of which must fit into memory."""
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, as its mark starts with that of UTF-16
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte-order mark → encoding."""


def characters(path: Path) -> Iterator[str]:
    """Yield the characters of a text file in chunks.

    The encoding is given by a byte-order mark, or else UTF-8.

    Raises:
        NoText: if bytes are invalid in that encoding, or NUL.
        BadInput: if the file is damaged.
    """
    with opened(path) as file:
        head = file.read(CHUNK)
        mark, encoding = next(((mark, name) for mark, name in MARKS.items() if head.startswith(mark)), (b"", "utf-8"))
        decoder = codecs.getincrementaldecoder(encoding)()
        lines = io.IncrementalNewlineDecoder(None, translate=True)
        chunk, seen = head[len(mark) :], len(head)
        while True:
            text = lines.decode(_decoded(decoder, chunk, seen, encoding), final=not chunk)
            if "\0" in text:
                raise NoText(
                    "not text",
                    "is not text: it has NUL bytes, like images, binary files and UTF-16 without a byte-order mark",
                )
            if text:
                yield text
            if not chunk:
                return
            chunk = file.read(CHUNK)
            seen += len(chunk)


def _decoded(decoder: Any, chunk: bytes, seen: int, encoding: str) -> str:
    try:
        return decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        at = seen - len(error.object) + error.start
        where = f"byte {error.object[error.start]:#04x} at {at}" if error.start < len(error.object) else "its end"
        advice = ": if it is text, convert it to UTF-8 (iconv -f latin1 -t utf-8)" if encoding == "utf-8" else ""
        raise NoText("not text", f"is not {encoding.upper()} ({where}){advice}") from None


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends. Raises as `characters`, and BadInput for a line too long."""
    held = ""
    for text in characters(path):
        whole = held + text
        *lines, held = whole.split("\n")
        yield from (f"{line}\n" for line in lines)
        if len(held) > LONGEST:
            raise BadInput(f"{path}: has a line of more than {LONGEST} characters, too long for a record")
    if held:
        yield held


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading decompressed bytes. Raises BadInput if it is damaged or needs a missing library."""
    import lzma

    compression = ends_of(path)[1]
    try:
        with _open(path, compression) as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadInput(
            f"{path}: is damaged, or not a {compression} file ({str(error).strip() or 'unexpected end'})"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"{path}: cannot be read ({reason})") from None


def _open(path: Path, compression: str) -> Any:
    if compression == ".gz":
        import gzip

        return gzip.open(path)
    if compression == ".bz2":
        import bz2

        return bz2.open(path)
    if compression == ".xz":
        import lzma

        return lzma.open(path)
    return _open_zst(path) if compression == ".zst" else path.open("rb")


def _open_zst(path: Path) -> Any:
    try:
        from compression import zstd  # Python 3.14 has it
    except ImportError:
        try:
            from pyarrow import input_stream
        except ImportError:
            raise BadInput(f"{path}: reading .zst needs Python 3.14, or pyarrow: pip install 'pli[parquet]'") from None
        return input_stream(str(path), compression="zstd")
    return zstd.open(path)

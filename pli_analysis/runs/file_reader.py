"""Read bytes of files into existing memory.

Files are not mapped into memory: a mapped file that is truncated during a read kills the process, while here it raises
BadInput.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import numpy as np

from pli_train.core.errors import BadInput


def unreadable(path: Path, error: OSError) -> BadInput:
    """Return the error for a file that the operating system cannot read."""
    return BadInput(f"{path}: cannot be read ({error.strerror})")


class Files:
    """Read files repeatedly and keep the last ones open. Not thread-safe.

    Args:
        most: maximum number of open files, at least 2.
    """

    def __init__(self, most: int = 1) -> None:
        self.most = max(most, 2)
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, path: Path, offset: int, into: np.ndarray) -> None:
        """Fill a contiguous array with the bytes of a file from `offset` on.

        Raises:
            FileNotFoundError: if the file was removed.
            BadInput: if the file cannot be read or ends before the array is full.
        """
        view, done, handle = into.reshape(-1).view(np.uint8).data, 0, self.handle(path)
        try:
            while done < len(view) and (got := os.preadv(handle, [view[done:]], offset + done)):
                done += got
        except OSError as error:
            raise unreadable(path, error) from None
        if done < len(view):
            raise BadInput(f"{path}: became shorter while it was read")

    def handle(self, path: Path) -> int:
        """Return the handle of a file, which stays open until `most` other files were opened.

        Raises:
            FileNotFoundError: if the file was removed.
            BadInput: if it cannot be opened.
        """
        if (handle := self._open.pop(path, None)) is None:
            if len(self._open) >= self.most:
                os.close(self._open.pop(next(iter(self._open))))
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise unreadable(path, error) from None
        self._open[path] = handle
        return handle

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

"""Read bytes of files into existing memory.

Files are not mapped into memory: one that is cut while it is read would end the process, and is one line here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import numpy as np

from pli_train.core.errors import BadInput


def unreadable(path: Path, error: OSError) -> BadInput:
    """What to say of a file that the system does not give."""
    return BadInput(f"{path}: cannot be read ({error.strerror})")


class Files:
    """Files that stay open while one reads of them again and again, for one thread.

    Args:
        most: how many stay open; two when it is less.
    """

    def __init__(self, most: int = 1) -> None:
        self.most = max(most, 2)
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self, path: Path, offset: int, into: np.ndarray) -> None:
        """Fill a contiguous array with what lies in a file from `offset` bytes on.

        Raises:
            FileNotFoundError: when the file was removed.
            BadInput: when it cannot be read, or is not as long as that.
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
        """The handle of an open file. It stays open until `most` others were asked for.

        Raises:
            FileNotFoundError: when the file was removed.
            BadInput: when it cannot be opened.
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
        """Close them all."""
        while self._open:
            os.close(self._open.popitem()[1])

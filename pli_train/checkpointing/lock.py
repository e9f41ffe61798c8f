"""Lock a run folder, so that only one process writes to it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder


class Lock:
    """Holds a run folder until released, collected, or the process is gone. Readers need none.

    Args:
        run: the folder.
        name: of the file that is locked.
        doing: what the holder does, for the error line of others.

    Raises:
        BadInput: when another process, or another trainer of this one, holds it.
    """

    def __init__(self, run: Path, name: str = run_folder.LOCK, doing: str = "is training in it") -> None:
        self._file: TextIO = (run / name).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise BadInput(f"{run}: process {holder} {doing}; wait for it, or stop it with kill") from None
        except OSError:
            return  # a file system without locks
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others in. The file stays: to remove it would race with whoever is opening it."""
        self._file.close()

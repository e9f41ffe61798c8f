"""Lock a run folder, so that only one process writes to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems say that have no locks."""


class Lock:
    """Holds a run folder until released, collected, or the process is gone. Readers need none.

    Args:
        run: the folder.
        name: of the file that is locked.
        activity: what the holder does, for the error line of others.

    Raises:
        BadInput: when another process, or another trainer of this one, holds it.
    """

    def __init__(self, run: Path, name: str = run_folder.LOCK, activity: str = "is training in it") -> None:
        path = run / name
        # A soft lock, a file that is there, would outlive a killed process: a file system without locks has none.
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
            raise BadInput(f"{run}: process {holder} {activity}; wait for it, or stop it with kill") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        else:
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")

    def release(self) -> None:
        """Let others in. The file stays: to remove it would race with whoever is opening it."""
        self._lock.release()

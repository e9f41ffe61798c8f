"""Lock a run folder, so that only one process writes to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from filelock import FileLock, Timeout

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of file systems that do not support locks."""


class Lock:
    """Lock on a run folder until released, garbage-collected, or the process ends. Readers need no lock.

    Args:
        run: run or study folder.
        name: name of the lock file.
        activity: activity of the lock's holder, for the error line of other processes.

    Raises:
        BadInput: when another process, or another trainer of this process, has the lock.
    """

    def __init__(self, run: Path, name: str = run_folder.LOCK, activity: str = "is training in it") -> None:
        path = run / name
        # No fallback to a soft lock (a file that exists), as it would outlive a killed process.
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
        """Release the lock. The file stays, as removing it could race with a process that opens it."""
        self._lock.release()

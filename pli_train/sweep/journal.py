"""Optuna's journal in the folder of a study: read, append, repair.

Optuna's journal backend cannot read a journal with an incomplete line, which a full disk or a crash can leave. Here
readers stop before an incomplete line, a failed write is undone, and an incomplete line is removed (and kept in a file
next to the journal) before the next entry is appended.
"""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages.journal import BaseJournalBackend

from pli_train.core.errors import BadInput, PliError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


class Journal(BaseJournalBackend):
    """The journal as a backend of Optuna's JournalStorage. It takes no lock: the coordinator locks the study.

    Args:
        path: path of the journal.

    Raises:
        BadInput: on reading, when a line other than the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number, self._offset = 0, 0  # of the first line that was not read yet

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from a number on, up to the last complete line."""
        if log_number_from < self._number:
            self._number, self._offset = 0, 0
        try:
            if self._path.stat().st_size == self._offset:
                return
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    entry = json.loads(line)
                except ValueError:
                    if not file.read(1):
                        return  # incomplete after a power failure; `repair` removes it
                    raise BadInput(f"{self._path}: line {self._number + 1} is damaged") from None
                self._number, self._offset = self._number + 1, self._offset + len(line)
                if self._number > log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, all or none. Raises PliError when they cannot be written."""
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with self._path.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                written = file.write(data)
                if written != len(data):
                    file.write(data[written:])  # raises what stopped the first write
                os.fsync(file.fileno())
            except OSError as error:
                os.ftruncate(file.fileno(), size)
                reason = (error.strerror or str(error)).lower()
                raise PliError(
                    f"{self._path}: not written ({reason}); fix this, then run the same command to resume"
                ) from None


def repair(path: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Remove an incomplete line from a journal, and keep its bytes in `journal.log.cut-N`.

    An entry that another program appended to an incomplete line is kept.

    Raises:
        BadInput: when another line is damaged.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    good, cut = [], []
    lines = list(io.BytesIO(data))  # which ends lines at \n alone
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n") and _is_entry(line):
            good.append(line)
        elif line.endswith(b"\n") and (start := _appended(line)) is not None:
            cut.append(line[:start] + b"\n")
            good.append(line[start:])
        elif number == len(lines):
            cut.append(line)
        else:
            raise BadInput(
                f"{path}: line {number} is damaged; restore the file from a backup, or choose another folder with --out"
            )
    if not cut:
        return
    number = 1
    while (kept := path.with_name(f"{path.name}.cut-{number}")).exists():
        number += 1
    kept.write_bytes(b"".join(cut))
    repaired = path.with_name(f"{path.name}.repaired")
    with repaired.open("wb") as file:
        file.write(b"".join(good))
        file.flush()
        os.fsync(file.fileno())
    repaired.replace(path)
    say(f"{path}: removed an incomplete line (kept in {kept.name}); finished trials are not affected")


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _appended(line: bytes) -> int | None:
    """Return the offset of a complete entry at the end of a line that begins with an incomplete one."""
    start = line.find(b'{"op_code"', 1)
    while start != -1:
        if _is_entry(line[start:]):
            return start
        start = line.find(b'{"op_code"', start + 1)
    return None


def open_storage(path: Path) -> BaseStorage:
    """Open a journal as a storage of Optuna."""
    return optuna.storages.JournalStorage(Journal(path))


def quiet() -> None:
    """Suppress Optuna's log lines and its warnings about experimental features."""
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # the coordinator sends its own

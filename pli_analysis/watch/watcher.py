"""Poll a run for new data.

Any file may be incomplete at the moment of a poll. Then the previous data is kept, a note says what could not be read,
and the next poll tries again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pli_analysis.runs.checkpoint import Checkpoint
from pli_analysis.runs.run import Run
from pli_analysis.scalars import trainer_log
from pli_analysis.scalars.reading import Reader, Scalars
from pli_analysis.watch import frame
from pli_analysis.watch.frame import Frame
from pli_analysis.watch.latest import Drift, Measure, drifts
from pli_train.core.errors import BadInput, first_line
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_train.core.lineage import Lineage

T = TypeVar("T")
LOCKS = Path("/proc/locks")
"""Linux's list of file locks, by inode number."""
TRANSIENT_ERRORS = (BadInput, OSError, LookupError, ValueError, StopIteration)
"""Errors of readers whose files appear or disappear while they are read."""


class RunWatcher:
    """Poll a run; each poll reads only what is new.

    Args:
        path: folder of the run.
        measure: function that measures drift, see `pli_analysis.watch.latest.drifts`.

    Raises:
        BadInput: when there is no run.
    """

    def __init__(self, path: Path, measure: Measure = drifts) -> None:
        self.path = run_folder.require_run(path)
        total = Run(path).record.get("total_steps")
        self._frame = Frame(path.resolve().name, total=total if type(total) is int and 0 < total < 2**53 else None)
        self._reader, self.drift = Reader(path), Drift(path, measure)
        self._scalars, self._notes = Scalars(), list[str]()
        self._lineage: Lineage | None = None
        self._newest: Checkpoint | None = None

    def poll(self, now: float | None = None) -> Frame:
        """Return the current state of the run.

        Args:
            now: current time in seconds since 1970; the clock's if None.
        """
        self._notes = []
        began = started(self.path)  # read first: if it is None, training has ended, and all data read below is final
        newest = self._newest = self._try("checkpoints", self._find, self._newest)
        if newest is not None:
            self._lineage = self._try("lineage", lambda: Run(self.path).lineage, self._lineage)
        scalars = self._scalars = self._try("scalars", lambda: self._read(newest), self._scalars)
        self._notes += scalars.damaged
        total, left = self._frame.total, None
        if began is not None and total is not None:
            left = frame.seconds_left(scalars, total, began, time.time() if now is None else now)
        self._frame = replace(
            self._frame,
            training=began is not None,
            step=max(frame.last_step(scalars), newest.step if newest else 0),
            losses=scalars.of(run_folder.LOSS).values,
            evals=scalars.of(run_folder.EVAL_LOSS).values,
            rate=frame.last(scalars, run_folder.TOKENS_PER_SECOND),
            left=left,
            checkpoint=None if newest is None else str(newest.name),
        )
        if newest is not None and self._lineage is not None:
            self._update_layers(self._lineage, scalars, str(newest.name))
        return replace(self._frame, notes=tuple(self._notes))

    def wait(self) -> None:
        """Wait until drift at the newest checkpoint is measured; the next poll returns it."""
        self.drift.wait()

    def close(self) -> None:
        """Stop measuring drift."""
        self.drift.close()

    def _update_layers(self, lineage: Lineage, scalars: Scalars, checkpoint: str) -> None:
        """Update stack, growth, gradient norms and drift."""
        status = self.drift.at(checkpoint)
        self._notes += status.notes
        self._frame = replace(
            self._frame,
            stack=tuple(lineage.stack),
            born={id: layer.birth.step for id, layer in lineage.layers.items()},
            growth=frame.growth(lineage, scalars),
            norms=frame.norms(lineage, scalars),
            drift=status.values,
            drift_at=status.checkpoint,
        )

    def _find(self) -> Checkpoint | None:
        """Return the newest complete checkpoint."""
        for name, path in reversed(run_folder.checkpoints(self.path)):
            if run_folder.flaw(path) is None:
                known = self._newest
                return known if known is not None and known.name == name else Checkpoint(name, path)
        return None

    def _read(self, newest: Checkpoint | None) -> Scalars:
        """Read the logged scalars; if there are none, those in the state of the newest checkpoint."""
        logged = self._reader.update()
        return trainer_log.merged([newest.state], []) if newest and not logged.columns else logged

    def _try(self, what: str, read: Callable[[], T], before: T) -> T:
        try:
            return read()
        except TRANSIENT_ERRORS as error:
            self._notes.append(f"{what}: cannot be read at the moment, trying again ({first_line(error)})")
            return before


def started(run: Path, lock: str = run_folder.LOCK) -> float | None:
    """Return the start time of the process that trains a run, in seconds since 1970; None if none does on this machine.

    The lock is not tried, because that could make a process that is about to train fail.

    Args:
        run: folder of the run, or of a study.
        lock: name of the lock file in it.
    """
    path = run / lock
    try:
        stats = path.stat()
        return stats.st_mtime if _held(path, stats.st_ino) else None
    except TRANSIENT_ERRORS:
        return None


def _held(path: Path, inode: int) -> bool:
    """Return whether a lock file is locked, by its inode number, or else by the process id in it."""
    try:
        locks = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return _is_alive(int(run_folder.read_text(path)))
    return any(f":{inode} " in lock for lock in locks)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True

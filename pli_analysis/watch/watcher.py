"""Read what is new in a run, again and again.

Anything may be half there at the moment of a look: then what was seen last stands, a line says what is missing, and the
next look tries again.
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
"""Where Linux tells who holds which lock, by the number of the file."""
PASSING = (BadInput, OSError, LookupError, ValueError, StopIteration)
"""What files that come and go while they are read make of readers."""


class RunWatcher:
    """Looks at a run, each time at what is new.

    Args:
        path: of the run.
        measure: drift, see `pli_analysis.watch.latest.drifts`.

    Raises:
        BadInput: when there is no run.
    """

    def __init__(self, path: Path, measure: Measure = drifts) -> None:
        self.path = run_folder.require_run(path)
        total = Run(path).record.get("total_steps")
        self._frame = Frame(path.resolve().name, total=total if type(total) is int and 0 < total < 2**53 else None)
        self._reader, self._drift = Reader(path), Drift(path, measure)
        self._scalars, self._notes = Scalars(), list[str]()
        self._lineage: Lineage | None = None
        self._newest: Checkpoint | None = None

    def poll(self, now: float | None = None) -> Frame:
        """The run as it is now.

        Args:
            now: seconds since 1970, by the clock if None.
        """
        self._notes = []
        began = started(self.path)  # asked before all else: once it is None, what is read next has the last words
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
            self._grown(self._lineage, scalars, str(newest.name))
        return replace(self._frame, notes=tuple(self._notes))

    def wait(self) -> None:
        """Wait until drift is told of the newest checkpoint; the next look has it."""
        self._drift.wait()

    def close(self) -> None:
        """Read on no more."""
        self._drift.close()

    def _grown(self, lineage: Lineage, scalars: Scalars, checkpoint: str) -> None:
        """What is told of layers."""
        found = self._drift.at(checkpoint)
        self._notes += found.notes
        self._frame = replace(
            self._frame,
            stack=tuple(lineage.stack),
            born={id: layer.birth.step for id, layer in lineage.layers.items()},
            growth=frame.growth(lineage, scalars),
            norms=frame.norms(lineage, scalars),
            drift=found.values,
            drift_at=found.checkpoint,
        )

    def _find(self) -> Checkpoint | None:
        """The newest whole checkpoint."""
        for name, path in reversed(run_folder.checkpoints(self.path)):
            if run_folder.flaw(path) is None:
                known = self._newest
                return known if known is not None and known.name == name else Checkpoint(name, path)
        return None

    def _read(self, newest: Checkpoint | None) -> Scalars:
        """What was logged; where nothing was, what the newest checkpoint tells of it."""
        found = self._reader.update()
        return trainer_log.message([newest.state], []) if newest and not found.columns else found

    def _try(self, what: str, read: Callable[[], T], before: T) -> T:
        try:
            return read()
        except PASSING as error:
            self._notes.append(f"{what}: not readable just now, trying again ({first_line(error)})")
            return before


def started(run: Path) -> float | None:
    """When the process began that trains in a run, in seconds since 1970; None when none of this machine does.

    Nothing is locked for this: a reader that tried the lock would turn away a process that is about to train.
    """
    path = run / run_folder.LOCK
    try:
        seen = path.stat()
        return seen.st_mtime if _held(path, seen.st_ino) else None
    except PASSING:
        return None


def _held(path: Path, number: int) -> bool:
    """Whether somebody holds the lock of a file, by its number on the disk, or else by the process that it names."""
    try:
        locks = LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return _lives(int(run_folder.read_text(path)))
    return any(f":{number} " in lock for lock in locks)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True

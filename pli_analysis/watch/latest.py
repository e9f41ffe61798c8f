"""Drift at the newest checkpoint, measured in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.runs.run import ProgressCallback, Run
from pli_analysis.scalars.reading import Scalars
from pli_train.core.errors import first_line
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_train.core.run_format.run_folder import CheckpointName

TRIES = 3
"""Number of attempts to measure a checkpoint; files of a run that trains may be missing for a moment."""

Measure = Callable[[Path, ProgressCallback], Mapping[str, float]]


class Births(Run):
    """A run with only its newest checkpoint and those of births, and without scalars."""

    @cached_property
    def scalars(self) -> Scalars:
        """No scalars: only update rates need them."""
        return Scalars()

    @cached_property
    def folders(self) -> list[tuple[CheckpointName, Path, str | None]]:
        """The newest checkpoint and those after events of growth."""
        born = {0, *(event.step for event in self.lineage.events)}
        all_checkpoints, chosen = run_folder.checkpoints(self.path), list[tuple["CheckpointName", Path, str | None]]()
        for number, (name, path) in reversed(list(enumerate(all_checkpoints))):
            wanted = not chosen or number == 0 or (name.after and name.step in born)
            if wanted and run_folder.flaw(path) is None:
                chosen.append((name, path, None))
        return chosen[::-1]


def drifts(path: Path, on_progress: ProgressCallback = lambda done, total: None) -> dict[str, float]:
    """Return layer id → ‖θ − θ(birth)‖ ÷ ‖θ(birth)‖ at the newest checkpoint of a run.

    Args:
        path: folder of the run.
        on_progress: see `pli_analysis.weights.measurement.measure`; an exception that it raises ends the measurement.

    Raises:
        BadInput: when weights cannot be read, or birth weights are missing.
    """
    from pli_analysis.metrics.drift.drift import drift

    table = drift(Births(path), "layer", on_progress)
    newest = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]]
    return dict(zip(newest[col.PART], newest[col.RELATIVE_L2].tolist(), strict=True))


class Stopped(Exception):
    """The measurement was cancelled."""


@dataclass(frozen=True)
class DriftStatus:
    """Drift by layer, the checkpoint at which it was measured, and notes on failed measurements."""

    values: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    notes: tuple[str, ...] = ()


class Drift:
    """Measure drift in a background thread, one checkpoint at a time.

    Args:
        path: folder of the run.
        measure: function that measures drift, see `drifts`.
    """

    def __init__(self, path: Path, measure: Measure = drifts) -> None:
        self._path, self._measure = path, measure
        self._status, self._asked, self._tries = DriftStatus(), "", 0
        self._thread: threading.Thread | None = None
        self.ending = threading.Event()

    def at(self, checkpoint: str) -> DriftStatus:
        """Return the latest result, and start measuring the checkpoint if it is a new one."""
        if self._thread is not None and self._thread.is_alive():
            return self._status
        known = self._status
        if checkpoint != self._asked:
            self._asked, self._tries = checkpoint, TRIES
        if checkpoint != self._status.checkpoint and self._tries:
            self._tries -= 1
            self._thread = threading.Thread(target=self._run, args=(checkpoint,), daemon=True)
            self._thread.start()
        return known

    def wait(self) -> None:
        """Wait until the current measurement is done."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Cancel the current measurement and wait for the thread to end."""
        self.ending.set()
        self.wait()

    def _run(self, checkpoint: str) -> None:
        try:
            self._status = DriftStatus(self._measure(self._path, self._check), checkpoint)
        except Stopped:
            pass
        except Exception as error:  # no failure of a measurement may end the display
            note = f"drift at {checkpoint}: {first_line(error)}"
            self._status = DriftStatus(self._status.values, self._status.checkpoint, (note,))

    def _check(self, done: int, total: int) -> None:
        """Raise Stopped after `close`."""
        if self.ending.is_set():
            raise Stopped

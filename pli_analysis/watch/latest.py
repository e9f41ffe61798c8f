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
"""Times that a checkpoint is measured which fails: the files of a run that trains may be gone for a moment."""

Measure = Callable[[Path, ProgressCallback], Mapping[str, float]]


class Births(Run):
    """A run of which only the checkpoints of births and the newest are read, and no scalars."""

    @cached_property
    def scalars(self) -> Scalars:
        """None: only speeds need them."""
        return Scalars()

    @cached_property
    def _found(self) -> list[tuple[CheckpointName, Path, str | None]]:
        born = {0, *(event.step for event in self.lineage.events)}
        found, chosen = run_folder.checkpoints(self.path), list[tuple["CheckpointName", Path, str | None]]()
        for number, (name, path) in reversed(list(enumerate(found))):
            wanted = not chosen or number == 0 or (name.after and name.step in born)
            if wanted and run_folder.flaw(path) is None:
                chosen.append((name, path, None))
        return chosen[::-1]


def drifts(path: Path, on_progress: ProgressCallback = lambda done, total: None) -> dict[str, float]:
    """Layer id → ‖θ − θ(birth)‖ ÷ ‖θ(birth)‖ at a run's newest checkpoint.

    Args:
        path: of the run.
        on_progress: told how far it is, see `pli_analysis.weights.measurement.measure`; what it raises ends it.

    Raises:
        BadInput: when weights cannot be read, or birth weights are gone.
    """
    from pli_analysis.metrics.drift.drift import drift

    table = drift(Births(path), "layer", on_progress)
    newest = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]]
    return dict(zip(newest[col.PART], newest[col.RELATIVE_L2].tolist(), strict=True))


class Stopped(Exception):
    """Nobody waits for it any more."""


@dataclass(frozen=True)
class DriftStatus:
    """What is known of drift: by layer, of which checkpoint, and why not of the newest."""

    values: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    notes: tuple[str, ...] = ()


class Drift:
    """Measures in a thread of its own, one checkpoint at a time.

    Args:
        path: of the run.
        measure: see `drifts`.
    """

    def __init__(self, path: Path, measure: Measure = drifts) -> None:
        self._path, self._measure = path, measure
        self._describe, self._asked, self._tries = DriftStatus(), "", 0
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def at(self, checkpoint: str) -> DriftStatus:
        """What is known by now; a checkpoint that was not asked of before is measured from here on."""
        if self._thread is not None and self._thread.is_alive():
            return self._describe
        known = self._describe
        if checkpoint != self._asked:
            self._asked, self._tries = checkpoint, TRIES
        if checkpoint != self._describe.checkpoint and self._tries:
            self._tries -= 1
            self._thread = threading.Thread(target=self._run, args=(checkpoint,), daemon=True)
            self._thread.start()
        return known

    def wait(self) -> None:
        """Wait for what is being measured."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Measure no more."""
        self._ending.set()
        self.wait()

    def _run(self, checkpoint: str) -> None:
        try:
            self._describe = DriftStatus(self._measure(self._path, self._scan), checkpoint)
        except Stopped:
            pass
        except Exception as error:  # whatever it is, whoever looks on goes on looking
            note = f"drift at {checkpoint}: {first_line(error)}"
            self._describe = DriftStatus(self._describe.values, self._describe.checkpoint, (note,))

    def _scan(self, done: int, total: int) -> None:
        if self._ending.is_set():
            raise Stopped

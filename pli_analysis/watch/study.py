"""Poll a study for the states of its trials and the progress of those that run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics.sweep import trials
from pli_analysis.scalars.reading import Reader
from pli_analysis.watch import frame
from pli_analysis.watch.watcher import TRANSIENT_ERRORS, started
from pli_train.core.errors import first_line
from pli_train.core.run_format import run_folder, study_folder
from pli_train.core.run_format.study_folder import COMPLETE, CONFIRM, RUNNING

if TYPE_CHECKING:
    from pli_analysis.metrics.sweep.trials import Study, Trial

ENDED = 5
"""Number of ended trials shown, the last ones."""


class TrialState(StrEnum):
    """What a process on this machine does with the run of a trial that has not ended."""

    STARTING = "starting"
    TRAINING = "training"
    ENDING = "ending"
    ELSEWHERE = "not training here"


@dataclass(frozen=True)
class ArmState:
    """An arm of a study.

    Attributes:
        arm: its name.
        counts: state → number of trials.
        best: name of the trial with the lowest value; empty if none is complete, or the arm is `confirm`.
        value: lowest value of a trial; None if none is complete.
        lowest: (complete trials,) lowest value so far, in the order of trials.
    """

    arm: str
    counts: Mapping[str, int]
    best: str
    value: float | None
    lowest: np.ndarray


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has not ended.

    Attributes:
        name: name of its run.
        state: what a process on this machine does with the run.
        step: optimizer updates done, according to the logs.
        total: planned number of updates; None if unknown.
        evals: [evaluations] losses on the held-out blocks.
    """

    name: str
    state: TrialState
    step: int
    total: int | None
    evals: np.ndarray

    @property
    def training(self) -> bool:
        """Whether a process on this machine is training the run."""
        return self.state == TrialState.TRAINING


@dataclass(frozen=True)
class StudyFrame:
    """The state of a study at one moment.

    Attributes:
        name: name of the study.
        coordinated: whether a process on this machine runs the study.
        arms: its arms.
        running: trials that have not ended.
        ended: the last trials that ended, the newest last.
        notes: lines on what cannot be read at the moment.
    """

    name: str
    coordinated: bool = False
    arms: tuple[ArmState, ...] = ()
    running: tuple[RunningTrial, ...] = ()
    ended: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def finished(self) -> bool:
        """Whether all trials have ended and no process on this machine starts further ones."""
        return bool(self.arms) and not self.running and not self.coordinated


class StudyWatcher:
    """Poll a study. It takes no lock.

    Args:
        folder: study folder.

    Raises:
        BadInput: when the folder is not a study.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._frame = StudyFrame(str(study_folder.read(folder).get("name") or folder.resolve().name))
        self._readers: dict[str, Reader] = {}

    def poll(self) -> StudyFrame:
        """Return the current state of the study."""
        coordinated = is_coordinated(self.folder)  # read first: if it is False, all data read below is final
        try:
            study = trials.read(self.folder)
        except TRANSIENT_ERRORS as error:
            note = f"trials: cannot be read at the moment, trying again ({first_line(error)})"
            return replace(self._frame, coordinated=coordinated, notes=(note,))
        going = [trial for trial in study.trials if trial.state == RUNNING]
        self._readers = {name: r for name, r in self._readers.items() if name in {trial.name for trial in going}}
        self._frame = replace(
            self._frame,
            coordinated=coordinated,
            arms=tuple(arm_state(study, arm) for arm in trials.arms_of(study)),
            running=tuple(self._progress(study, trial, coordinated) for trial in going),
            ended=tuple(last_ended(study.trials)),
        )
        return self._frame

    def close(self) -> None:
        """Do nothing; for use in place of a `RunWatcher`."""

    def _progress(self, study: Study, trial: Trial, coordinated: bool) -> RunningTrial:
        """Return how far a trial is; each poll reads only what is new."""
        path = study.run(trial)
        step, evals = 0, np.empty(0)
        try:
            scalars = self._readers.setdefault(trial.name, Reader(path)).update()
            step, evals = frame.last_step(scalars), scalars.of(run_folder.EVAL_LOSS).values
        except TRANSIENT_ERRORS:
            pass  # the run has not started to log
        return RunningTrial(trial.name, self._state(trial, step, coordinated), step, trial.steps, evals)

    def _state(self, trial: Trial, step: int, coordinated: bool) -> TrialState:
        """Return the state of a trial. Its worker locks the log, and the run folder only while it trains."""
        if started(self.folder / study_folder.RUNS / trial.name) is not None:
            return TrialState.TRAINING
        if coordinated and trial.steps is not None and step >= trial.steps:
            return TrialState.ENDING  # its worker exits, or its result is not yet in the table of trials
        if started(self.folder / study_folder.LOGS, f"{trial.name}.log") is not None:
            return TrialState.STARTING
        return TrialState.ELSEWHERE


def arm_state(study: Study, arm: str) -> ArmState:
    """Return the state of an arm."""
    mine = study.of(arm)
    counts = {state: len(study.of(arm, state)) for state in trials.STATES}
    best = [] if arm == CONFIRM else trials.best(mine)
    values = np.array([trial.value for trial in mine if trial.state == COMPLETE], dtype=float)
    value = trials.value_of(best) if best else None
    return ArmState(arm, counts, best[0].name if best else "", value, np.minimum.accumulate(values))


def last_ended(all_trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that ended last, the newest last."""
    ended = [trial for trial in all_trials if trial.state != RUNNING and trial.finished is not None]
    return sorted(ended, key=lambda trial: str(trial.finished))[-ENDED:]


def is_coordinated(folder: Path) -> bool:
    """Return whether a process on this machine runs the study."""
    return any(started(folder, path.name) is not None for path in folder.glob(f"*{study_folder.LOCK}"))

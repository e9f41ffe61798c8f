"""A study on disk: what it is made of, its Optuna studies, and the table of its trials."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import TrialState

from pli_train.checkpointing.lock import Lock
from pli_train.core import output
from pli_train.core.errors import BadInput, some
from pli_train.core.run_format import study_folder
from pli_train.core.run_format.study_folder import BASELINE, GROWTH
from pli_train.sweep import journal
from pli_train.sweep.pruning import pruner
from pli_train.sweep.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

VERSIONS = ("pli", "torch", "transformers", "numpy", "optuna")
PLAN = "plan"
"""User attribute of a trial: how it was planned, before it started."""
RESULT = "result"
"""User attribute of a trial: FLOPs, tokens, seconds and loss of its run, or its error."""
MACHINE = "machine"
"""User attribute of a trial: name of the machine that runs it, or ran it first."""
SURPLUS = "surplus"
"""User attribute of a trial that one of several machines asked for when there were enough already."""
PRUNED_AT = "pruned_at"
"""User attribute of a trial that is being pruned: the step of the evaluation that decided it."""
STATES = {
    TrialState.COMPLETE: study_folder.COMPLETE,
    TrialState.PRUNED: study_folder.PRUNED,
    TrialState.FAIL: study_folder.FAIL,
    TrialState.RUNNING: study_folder.RUNNING,
    TrialState.WAITING: study_folder.RUNNING,
}
SHARE_OF_TIME = 0.02
"""Share of time spent writing the table of trials, at most."""


@dataclass(frozen=True)
class Settings:
    """What a study is. None of it changes once the study has begun.

    Attributes:
        space: what is varied.
        objective: one of `study_folder.Objective`.
        budget: FLOPs, tokens or seconds of a run; None for those of the baseline at the base's steps.
        sampler: one of `study_folder.Sampler`.
        pruner: one of `study_folder.Pruner`.
        seed: of the sampler.
        baseline: whether the full-depth baseline is part of the study.
    """

    space: Space
    objective: str = "flops"
    budget: float | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    baseline: bool = True

    def to_table(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The form in study.json, by which a study is recognized. `base` is the resolved base config."""
        return {
            "base": dict(base),
            "space": self.space.to_table(),
            "objective": self.objective,
            "budget": self.budget,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
            "baseline": self.baseline,
        }


@dataclass
class Study:
    """An open study. Its holder is the only process that writes to the folder, but for the workers.

    Attributes:
        folder: of the study.
        settings: what it is.
        document: study.json.
        storage: of its trials.
        lock: on the folder; with a database, one for each machine.
        machine: name of this machine.
        say: called with lines for the user.
    """

    folder: Path
    settings: Settings
    document: dict[str, Any]
    storage: BaseStorage
    lock: Lock
    machine: str = ""
    say: Callable[[str], None] = lambda line: None
    _arms: dict[str, optuna.Study] = field(default_factory=dict)
    _table_written: float = 0.0
    _table_took: float = 0.0
    _table_stale: bool = True

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Settings,
        base: Mapping[str, Any],
        budget: float | None = None,
        url: str | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Study:
        """Begin a study, or go on with the one in the folder.

        Args:
            folder: of the study.
            settings: what it is to be.
            base: the resolved base config, as JSON has it.
            budget: of each run as it was computed, for a study that begins.
            url: of a database for the trials; the journal in the folder if None.
            say: called with lines for the user.

        Raises:
            BadInput: when another study or something else is in the folder, another process runs the study, its journal
                is damaged, or its storage cannot be reached.
            PliError: when the folder cannot be written.
        """
        table = json.loads(json.dumps(settings.to_table(base)))
        _require(folder, table)
        storage = journal.open_storage(folder / study_folder.JOURNAL, url) if url else None
        for name in ("", study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS):
            output.make_folder(folder / name)
        machine = platform.node()
        name = study_folder.LOCK if url is None else f"{machine}.{study_folder.LOCK}"
        lock = Lock(folder, name, "runs the study in it")
        if study_folder.is_study(folder):
            _warn_of_versions(study_folder.read(folder), say)
        else:
            _publish(folder, _new_document(folder, table, budget, url))
            _require(folder, table)  # another machine may have been faster, with another study
        document = study_folder.read(folder)
        if (document["storage"] is None) != (url is None):
            raise BadInput(f"{folder}: its trials are in {document['storage'] or study_folder.JOURNAL}; see --storage")
        if storage is None:
            journal.repair(folder / study_folder.JOURNAL, say)
            storage = journal.open_storage(folder / study_folder.JOURNAL, None)
        return cls(folder, settings, document, storage, lock, machine, say)

    def arm(self, name: str) -> optuna.Study:
        """Open the Optuna study of an arm, or make it."""
        if name not in self._arms:
            self._arms[name] = optuna.create_study(
                study_name=study_folder.study_name(self.document["id"], name),
                storage=self.storage,
                direction="minimize",
                pruner=pruner(self.settings.pruner),
                load_if_exists=True,
            )
        return self._arms[name]

    def has(self, arm: str) -> bool:
        """Whether an arm exists."""
        name = study_folder.study_name(self.document["id"], arm)
        return arm in self._arms or name in optuna.get_all_study_names(self.storage)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that are searched."""
        return (GROWTH, BASELINE) if self.settings.baseline else (GROWTH,)

    def trials(self, arm: str, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        """Return the trials of an arm, in order. They are not to be changed."""
        found = self.arm(arm).get_trials(deepcopy=False, states=states)
        return [trial for trial in found if SURPLUS not in trial.user_attrs]

    def stale(self, arm: str) -> list[FrozenTrial]:
        """Return running trials that nobody runs: all that this process does not, or those of machines that are lost.

        With a database, a trial is lost when its machine gave no sign of life for some heartbeats. Trials of this
        machine are this coordinator's, or its predecessor's.
        """
        running = self.trials(arm, (TrialState.RUNNING,))
        if not isinstance(self.storage, BaseHeartbeat):
            return running
        lost = self.storage._get_stale_trial_ids(self.arm(arm)._study_id)
        return [
            trial
            for trial in running
            if trial._trial_id in lost or trial.user_attrs.get(MACHINE) == self.machine or _never_owned(trial)
        ]

    def heartbeat(self, trials: Iterable[FrozenTrial]) -> None:
        """Tell other machines that these trials are being run."""
        if isinstance(self.storage, BaseHeartbeat):
            for trial in trials:
                self.storage.record_heartbeat(trial._trial_id)

    @property
    def is_shared(self) -> bool:
        """Whether several machines may run the study."""
        return isinstance(self.storage, BaseHeartbeat)

    def ask(self, arm: str) -> FrozenTrial:
        """Begin a trial. Its values are chosen later (`Arm.propose`), which a crash in between does not change."""
        study = self.arm(arm)
        study.sampler = optuna.samplers.RandomSampler()  # draws nothing here
        number = study.ask().number
        trial = study.get_trials(deepcopy=False)[number]
        self.heartbeat([trial])
        if self.is_shared:
            self.set(trial, MACHINE, self.machine)
        return trial

    def is_surplus(self, arm: str, trial: FrozenTrial, target: int) -> bool:
        """Whether other machines asked for the last trials that were missing before this one; then it is dropped."""
        if sum(other.number <= trial.number for other in self.trials(arm)) <= target:
            return False
        self.set(trial, SURPLUS, True)
        self.arm(arm).tell(trial.number, state=TrialState.FAIL)
        return True

    def set(self, trial: FrozenTrial, key: str, value: Any) -> None:
        """Store a user attribute of a trial."""
        self.storage.set_trial_user_attr(trial._trial_id, key, value)
        self._table_stale = True

    def finish(self, arm: str, trial: FrozenTrial, state: TrialState, result: dict[str, Any]) -> None:
        """Store how a trial ended, unless another machine did. `result` has its `value` where it is complete."""
        value = result["value"] if state == TrialState.COMPLETE else None
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.set(trial, RESULT, result)
            self.arm(arm).tell(trial.number, value, state, skip_if_finished=True)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of all trials, with `study_folder.FIELDS`."""
        names = [arm for arm in study_folder.ARMS if arm in self.arms or self.has(arm)]
        return [_row(arm, trial) for arm in names for trial in self.trials(arm)]

    def write_table(self, now: bool = False) -> None:
        """Write trials.json if it is out of date, and not so often that it takes up time. Raises PliError."""
        wait = self._table_took / SHARE_OF_TIME
        if not self._table_stale or not (now or time.monotonic() > self._table_written + wait):
            return
        began = time.monotonic()
        table = {"format": study_folder.TRIALS_FORMAT, "version": study_folder.VERSION, "trials": self.rows()}
        output.write(self.folder / study_folder.TRIALS, json.dumps(table, separators=(",", ":")) + "\n")
        self._table_stale, self._table_written = False, time.monotonic()
        self._table_took = self._table_written - began

    def close(self) -> None:
        """Let others open the study."""
        self.lock.release()


def _row(arm: str, trial: FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    known = {
        **attributes.get(PLAN, {}),
        **attributes.get(RESULT, {}),
        "arm": arm,
        "number": trial.number,
        "state": STATES[trial.state],
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "params": trial.params,
        "started": trial.datetime_start and trial.datetime_start.isoformat(timespec="seconds"),
        "finished": trial.datetime_complete and trial.datetime_complete.isoformat(timespec="seconds"),
    }
    return {name: known.get(name) for name in study_folder.FIELDS}


def _never_owned(trial: FrozenTrial) -> bool:
    """Whether the machine that asked for a trial was lost before it could say which it is."""
    age = (datetime.now() - (trial.datetime_start or datetime.now())).total_seconds()
    return MACHINE not in trial.user_attrs and age > 3 * journal.HEARTBEAT


def _require(folder: Path, table: dict[str, Any]) -> None:
    """Raise BadInput unless a folder is free for a study with these settings, or holds it."""
    if study_folder.is_study(folder):
        theirs = study_folder.read(folder).get("settings")
        theirs = theirs if isinstance(theirs, dict) else {}
        if different := [key for key in table if table[key] != theirs.get(key)]:
            raise BadInput(
                f"{folder}: holds another study (its {some(different)} differ{'s' * (len(different) == 1)}); "
                "name another folder with --out"
            )
    elif folder.exists() and (not folder.is_dir() or not _is_unborn(folder)):
        raise BadInput(f"{folder}: already exists and is not a study; name another folder with --out")


def _is_unborn(folder: Path) -> bool:
    """Whether a folder holds only what a study makes before its study.json."""
    ours = {study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS, study_folder.SLURM}
    return all(
        path.name in ours or path.name.endswith(study_folder.LOCK) or path.name.startswith(".partial-")
        for path in folder.iterdir()
    )


def _new_document(folder: Path, table: dict[str, Any], budget: float | None, url: str | None) -> dict[str, Any]:
    created = datetime.now(UTC).isoformat(timespec="microseconds")
    return {
        "format": study_folder.FORMAT,
        "version": study_folder.VERSION,
        "id": f"{folder.absolute().name} {created}",
        "name": folder.absolute().name,
        "created": created,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "storage": journal.without_password(url) if url else None,
        "budget": budget,
        "settings": table,
    }


def _publish(folder: Path, document: dict[str, Any]) -> None:
    """Write study.json unless another machine has just written it."""
    path, own = folder / study_folder.STUDY, folder / f".partial-{platform.node()}-{os.getpid()}"
    output.write(own, json.dumps(document, indent=1) + "\n")
    with suppress(FileExistsError):
        path.hardlink_to(own)
    own.unlink()


def _warn_of_versions(document: dict[str, Any], say: Callable[[str], None]) -> None:
    now = {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}}
    then = document.get("versions", {})
    if changed := [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]:
        say(f"versions changed since this study began: {', '.join(changed)}; its trials may not be comparable")

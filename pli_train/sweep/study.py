"""A study on disk: its settings, Optuna studies, and table of trials."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import TrialState

from pli_train.checkpointing.lock import Lock
from pli_train.core import output
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder, study_folder
from pli_train.core.run_format.study_folder import BASELINE, GROWTH, SEED
from pli_train.sweep import database, journal
from pli_train.sweep.pruning import pruner
from pli_train.sweep.settings_file import provenance, require_same, versions
from pli_train.sweep.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

VERSIONS = ("pli", "torch", "transformers", "numpy", "optuna")
PLAN = "plan"
"""User attribute of a trial: its plan, stored before it starts."""
RESULT = "result"
"""User attribute of a trial: FLOPs, tokens, seconds and loss of its run, or its error."""
MACHINE = "machine"
"""User attribute of a trial: name of the machine that started it."""
SURPLUS = "surplus"
"""User attribute of a trial that a machine created when the arm already had all its trials."""
PRUNED_AT = "pruned_at"
"""User attribute of a pruned trial: the step of the decisive evaluation."""
STATES = {
    TrialState.COMPLETE: study_folder.COMPLETE,
    TrialState.PRUNED: study_folder.PRUNED,
    TrialState.FAIL: study_folder.FAIL,
    TrialState.RUNNING: study_folder.RUNNING,
    TrialState.WAITING: study_folder.RUNNING,
}
OPTIONS = {"seed": "--sampler-seed", "baseline": "--no-baseline"} | {
    name: f"--{name}" for name in ("objective", "budget", "sampler", "pruner")
}
"""Setting → the option that sets it."""
SHARE_OF_TIME = 0.02
"""Largest share of time spent writing the table of trials."""


@dataclass(frozen=True)
class Settings:
    """The settings of a study. They never change after its start.

    Attributes:
        space: search space.
        objective: one of `study_folder.Objective`.
        budget: FLOPs, tokens or seconds of each run; None for those of the baseline with the base config's steps.
        sampler: one of `study_folder.Sampler`.
        pruner: one of `study_folder.Pruner`.
        seed: seed of the sampler.
        baseline: whether the study has a full-depth baseline.
    """

    space: Space
    objective: str = "flops"
    budget: float | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    baseline: bool = True

    def to_table(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the form in study.json, which identifies the study. `base` is the resolved base config."""
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
    """An open study. Only this process and the workers write to its folder.

    Attributes:
        folder: study folder.
        settings: settings of the study.
        document: contents of study.json.
        storage: storage of its trials.
        lock: lock on the folder; with a database, one per machine.
        machine: name of this machine.
        say: called with each line of progress.
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

    @staticmethod
    def require(folder: Path, settings: Settings, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a study in JSON form. Raises BadInput unless the folder is unused or has them."""
        table: dict[str, Any] = json.loads(json.dumps(settings.to_table(base)))
        _require(folder, table)
        return table

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
        """Start a study, or resume the one in the folder.

        Args:
            folder: study folder.
            settings: settings of the study.
            base: resolved base config in JSON form.
            budget: computed budget of each run, for a new study.
            url: URL of a database for the trials; None for the journal in the folder.
            say: called with each line of progress.

        Raises:
            BadInput: when the folder contains another study or something else, another process runs the study, its
                journal is damaged, or its storage cannot be reached.
            PliError: when the folder cannot be written.
        """
        table = cls.require(folder, settings, base)
        journal.quiet()
        storage: BaseStorage | None = database.open_storage(url) if url else None
        for name in ("", study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS):
            output.make_folder(folder / name)
        machine = platform.node()
        name = study_folder.LOCK if url is None else f"{machine}.{study_folder.LOCK}"
        lock = Lock(folder, name, "runs the study in it")
        if study_folder.is_study(folder):
            _warn_of_versions(study_folder.read(folder), say)
        else:
            _publish(folder, _new_document(folder, table, budget, url))
            _require(folder, table)  # another machine may have just started another study
        document = study_folder.read(folder)
        if (document["storage"] is None) != (url is None):
            raise BadInput(f"{folder}: its trials are in {document['storage'] or study_folder.JOURNAL}; see --storage")
        if storage is None:
            journal.repair(folder / study_folder.JOURNAL, say)
            storage = journal.open_storage(folder / study_folder.JOURNAL)
        return cls(folder, settings, document, storage, lock, machine, say)

    def arm(self, name: str) -> optuna.Study:
        """Open or create the Optuna study of an arm."""
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
        """The searched arms."""
        return (GROWTH, BASELINE) if self.settings.baseline else (GROWTH,)

    def trials(self, arm: str, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        """Return the trials of an arm, in order. They must not be modified."""
        found = self.arm(arm).get_trials(deepcopy=False, states=states)
        return [trial for trial in found if SURPLUS not in trial.user_attrs]

    def stale(self, arm: str) -> list[FrozenTrial]:
        """Return trials in state RUNNING without a coordinator.

        With the journal, these are all running trials. With a database, they are those of this machine, and those of
        machines that missed several heartbeats.
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
        """Create a trial. Its values are sampled later by `Arm.propose`, also after a crash in between."""
        study = self.arm(arm)
        study.sampler = optuna.samplers.RandomSampler()  # samples nothing here
        number = study.ask().number
        trial = study.get_trials(deepcopy=False)[number]
        self.heartbeat([trial])
        if self.is_shared:
            self.set(trial, MACHINE, self.machine)
        return trial

    def is_surplus(self, arm: str, trial: FrozenTrial, target: int) -> bool:
        """Whether other machines already created the last missing trials; if so, drop this one."""
        if not self.is_shared or sum(other.number <= trial.number for other in self.trials(arm)) <= target:
            return False
        self.set(trial, SURPLUS, True)
        self.arm(arm).tell(trial.number, state=TrialState.FAIL)
        return True

    def set(self, trial: FrozenTrial, key: str, value: Any) -> None:
        """Store a user attribute of a trial."""
        self.storage.set_trial_user_attr(trial._trial_id, key, value)
        self._table_stale = True

    def finish(self, arm: str, trial: FrozenTrial, state: TrialState, result: dict[str, Any]) -> None:
        """Store the result of a trial, unless another machine did. `result` has a `value` if the trial is complete."""
        value = result["value"] if state == TrialState.COMPLETE else None
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.set(trial, RESULT, result)
            self.arm(arm).tell(trial.number, value, state, skip_if_finished=True)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of all trials, with `study_folder.FIELDS`."""
        names = [arm for arm in study_folder.ARMS if arm in self.arms or self.has(arm)]
        return [_row(arm, trial) for arm in names for trial in self.trials(arm)]

    def write_table(self, now: bool = False) -> None:
        """Write trials.json if it is out of date, within SHARE_OF_TIME unless `now`. Raises PliError."""
        wait = self._table_took / SHARE_OF_TIME
        stale = self._table_stale or self.is_shared  # other machines change trials too
        if not stale or not (now or time.monotonic() > self._table_written + wait):
            return
        began = time.monotonic()
        table = {"format": study_folder.TRIALS_FORMAT, "version": study_folder.VERSION, "trials": self.rows()}
        output.write(self.folder / study_folder.TRIALS, json.dumps(table, separators=(",", ":")) + "\n")
        self._table_stale, self._table_written = False, time.monotonic()
        self._table_took = self._table_written - began

    def close(self) -> None:
        """Release the lock on the study."""
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
        "pruned_at": attributes.get(PRUNED_AT),
        "rungs": {str(percent): loss for percent, loss in sorted(trial.intermediate_values.items())},
        "started": trial.datetime_start and trial.datetime_start.isoformat(timespec="seconds"),
        "finished": trial.datetime_complete and trial.datetime_complete.isoformat(timespec="seconds"),
    }
    return {name: known.get(name) for name in study_folder.FIELDS}


def _never_owned(trial: FrozenTrial) -> bool:
    """Whether the machine that created a trial was lost before it stored its name."""
    age = (datetime.now() - (trial.datetime_start or datetime.now())).total_seconds()
    return MACHINE not in trial.user_attrs and age > 3 * database.HEARTBEAT


def _require(folder: Path, table: dict[str, Any]) -> None:
    """Raise BadInput unless a folder is unused or contains the study with these settings."""
    document = study_folder.read(folder) if study_folder.is_study(folder) else None
    require_same(folder, "study", table, document, _is_early, _named)


def _named(setting: str, key: str) -> str:
    """Return the option or the config key of a setting, for error lines."""
    if setting != "space":
        return OPTIONS.get(setting, key or setting)
    if key == f"parameters.{SEED}":
        return "seeds"
    return key.removeprefix("set.").removeprefix("parameters.")


def _is_early(name: str) -> bool:
    """Whether a study creates a file with this name before its study.json."""
    ours = {study_folder.CONFIGS, study_folder.RUNS, study_folder.LOGS, study_folder.SLURM}
    return name in ours or name.endswith(study_folder.LOCK) or name.startswith(run_folder.PARTIAL)


def _new_document(folder: Path, table: dict[str, Any], budget: float | None, url: str | None) -> dict[str, Any]:
    origin, shown = provenance(VERSIONS), database.without_password(url) if url else None
    if url and shown:
        origin["command"] = [word.replace(url, shown) for word in origin["command"]]
    return {
        "format": study_folder.FORMAT,
        "version": study_folder.VERSION,
        "id": f"{folder.absolute().name} {origin['created']}",
        "name": folder.absolute().name,
        **origin,
        "storage": shown,
        "budget": budget,
        "settings": table,
    }


def _publish(folder: Path, document: dict[str, Any]) -> None:
    """Write study.json unless another machine has just written it."""
    path, own = folder / study_folder.STUDY, folder / f"{run_folder.PARTIAL}{platform.node()}-{os.getpid()}"
    output.write(own, json.dumps(document, indent=1) + "\n")
    with suppress(FileExistsError):
        path.hardlink_to(own)
    own.unlink()


def _warn_of_versions(document: dict[str, Any], say: Callable[[str], None]) -> None:
    now, then = versions(VERSIONS), document.get("versions", {})
    if changed := [f"{name} {then.get(name)} → {now[name]}" for name in now if then.get(name) != now[name]]:
        say(f"versions changed since the study started: {', '.join(changed)}; its trials may not be comparable")

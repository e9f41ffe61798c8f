"""The study folder of a sweep: names of files, arms and trial fields, and functions to read them.

    studies/NAME/
      study.json                settings, resolved base config, budget, versions, command line
      journal.log               Optuna's journal (absent with --storage); the coordinator is its only writer
      trials.json               a table of all trials, for readers; rewritten while the study runs
      study.lock                held by the coordinator
      configs/growth-0007.toml  the complete config of a trial
      runs/growth-0007/         its run folder
      logs/growth-0007.log      output of its worker, which holds a lock on it while it is alive

Each arm is a separate Optuna study in one storage, with its own sampler. Reading a study folder takes no lock, changes
nothing and does not need Optuna.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

STUDY = "study.json"
COMPARISON = "lag.json"
"""The file in place of study.json in the folder of a comparison of `pli-train lag`."""
CANDIDATES = "candidates.csv"
MAIN = "main"
"""Table of candidates, and name of the run, of a comparison."""
JOURNAL = "journal.log"
TRIALS = "trials.json"
LOCK = "study.lock"
CONFIGS = "configs"
RUNS = "runs"
LOGS = "logs"
SLURM = "slurm"
"""Folder for the files of SLURM jobs."""
FORMAT = "pli-study"
TRIALS_FORMAT = "pli-trials"
VERSION = 1

GROWTH = "growth"
BASELINE = "baseline"
CONFIRM = "confirm"
ARMS = (GROWTH, BASELINE, CONFIRM)

Objective = Literal["flops", "tokens", "seconds", "area"]
Sampler = Literal["tpe", "random", "grid"]
Launcher = Literal["local", "slurm", "ray"]
Pruner = Literal["none", "halving", "hyperband"]

RULE = "schedule."
"""Prefix of the names of the parameters of a schedule rule."""
SEED = "seed"
"""Name of the parameter that numbers the seeds of a grid."""
PRUNING_FACTOR = 3
"""One of so many trials continues at each decision of the pruner."""

COMPLETE, PRUNED, FAIL, RUNNING = "complete", "pruned", "fail", "running"
"""States of a trial in trials.json. A trial that was interrupted is `running`."""

FIELDS = (
    "arm",
    "number",
    "run",
    "state",
    "value",
    "loss",
    "steps",
    "planned_flops",
    "flops",
    "tokens",
    "seconds",
    "seed",
    "threads",
    "params",
    "changes",
    "of_arm",
    "of_trial",
    "pruned_at",
    "rungs",
    "error",
    "started",
    "finished",
)
"""Fields of a trial in trials.json; None if a field does not apply or is not known yet.

arm, number: identify the trial. run: name in `runs/`, `configs/` and `logs/`. value: minimized value of a complete
trial. loss: final eval loss, over all held-out text if that was evaluated. params: parameter → sampled value. changes:
config key → value that differs from the base config. of_arm, of_trial: the trial that a trial of the arm `confirm`
repeats with another seed. pruned_at: step of the evaluation by which it was pruned. rungs: percent of the
budget → eval loss that the pruner compared there; empty without a pruner. error: why it failed. started, finished: ISO
times.
"""


def study_name(name: str, arm: str) -> str:
    """Name of an arm's Optuna study in the storage.

    >>> study_name("when", "growth")
    'when/growth'
    """
    return f"{name}/{arm}"


def trial_name(arm: str, number: int) -> str:
    """Name of a trial's run folder.

    >>> trial_name("growth", 7)
    'growth-0007'
    """
    return f"{arm}-{number:04d}"


def is_study(folder: Path) -> bool:
    """Whether a folder is a study folder."""
    return (folder / STUDY).is_file()


def is_comparison(folder: Path) -> bool:
    """Whether a folder is a comparison of `pli-train lag`."""
    return (folder / COMPARISON).is_file() and not is_study(folder)


def instead(folder: Path) -> str:
    """Return the line for a comparison where a study or a run is expected."""
    return (
        f"{folder}: a comparison of `pli-train lag`: its results are in {folder / CANDIDATES}, and its run is "
        f"{folder / RUNS / MAIN}"
    )


def read(folder: Path) -> dict[str, Any]:
    """Read study.json. Raises BadInput when the folder is not a study, or a newer version wrote it."""
    if not folder.exists():
        raise BadInput(f"{folder}: no such folder")
    if is_comparison(folder):
        raise BadInput(instead(folder))
    if not is_study(folder):
        raise BadInput(f"{folder}: not a study folder: no {STUDY} in it; `pli-train sweep` creates one")
    return _document(folder / STUDY, FORMAT)


def trials(folder: Path) -> list[dict[str, Any]]:
    """Read the trials of a study as rows with FIELDS, by arm and number.

    While a study is running, the table may be some seconds old.

    Raises:
        BadInput: when the folder is not a study, or its table cannot be read.
    """
    read(folder)
    if not (folder / TRIALS).exists():
        return []
    rows = _document(folder / TRIALS, TRIALS_FORMAT).get("trials")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{folder / TRIALS}: contains no list of trials")
    return [{name: row.get(name) for name in FIELDS} for row in rows]


def _document(path: Path, kind: str) -> dict[str, Any]:
    document = run_folder.read_json(path)
    if document.get("format") != kind or not isinstance(document.get("version"), int):
        raise BadInput(f"{path}: not a file of a study (its format is {document.get('format')!r}, not {kind!r})")
    if document["version"] > VERSION:
        raise BadInput(f"{path}: has version {document['version']}; this release reads up to {VERSION}")
    return document

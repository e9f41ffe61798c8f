"""The trials of a study, as records and as a table.

A study may still be running, and the run folders of its trials may have been removed: both are read from `study.json`
and `trials.json` alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from pli_train.core.run_format.study_folder import (
    ARMS,
    BASELINE,
    COMPLETE,
    CONFIRM,
    FAIL,
    GROWTH,
    PRUNED,
    RUNNING,
    SEED,
)

if TYPE_CHECKING:
    import pandas as pd

STATES = (COMPLETE, PRUNED, FAIL, RUNNING)
NUMBERS = ("value", "loss", "steps", "planned_flops", "flops", "tokens", "seconds", "seed", "of_trial", "pruned_at")
FIRST = (col.ARM, col.NUMBER, col.STATE, col.VALUE, col.LOSS, col.STEPS, col.FLOPS, col.SECONDS, col.SEED)
LAST = (col.OF_ARM, col.OF_TRIAL, col.PRUNED_AT, col.ERROR)
"""Columns of the table before and after those of the parameters; LAST are left out where they are empty."""
TEXTS = ("run", "of_arm", "error", "started", "finished")


@dataclass(frozen=True)
class Trial:
    """A trial of a study; the attributes are those of `study_folder.FIELDS`, None where they do not apply."""

    arm: str
    number: int
    run: str | None
    state: str
    value: float | None
    loss: float | None
    steps: int | None
    planned_flops: float | None
    flops: float | None
    tokens: float | None
    seconds: float | None
    seed: int | None
    threads: int | None
    params: Mapping[str, Any]
    changes: Mapping[str, Any]
    of_arm: str | None
    of_trial: int | None
    pruned_at: int | None
    rungs: Mapping[str, float]
    error: str | None
    started: str | None
    finished: str | None

    @property
    def name(self) -> str:
        """Name of its run folder: `growth-0007`."""
        return study_folder.trial_name(self.arm, self.number)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameter → value, without the seed."""
        return {name: value for name, value in self.params.items() if name != SEED}

    @property
    def wall_seconds(self) -> float | None:
        """Seconds from start to end, with start-up, evaluations and interruptions; None if it has not ended."""
        if self.started is None or self.finished is None:
            return None
        try:
            return (datetime.fromisoformat(self.finished) - datetime.fromisoformat(self.started)).total_seconds()
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True)
class Study:
    """A study of `pli-train sweep`.

    Attributes:
        folder: study folder.
        document: contents of study.json.
        trials: all trials, by arm and number.
    """

    folder: Path
    document: Mapping[str, Any]
    trials: Sequence[Trial]

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.document.get("name") or self.folder.resolve().name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the study; empty if they are missing."""
        found = self.document.get("settings")
        return found if isinstance(found, dict) else {}

    @property
    def objective(self) -> str:
        """Minimized value: one of `study_folder.Objective`."""
        return str(self.settings.get("objective", "flops"))

    @property
    def space(self) -> Mapping[str, Any]:
        """Search space in the form of study.json; empty if it is missing."""
        found = self.settings.get("space")
        return found if isinstance(found, dict) else {}

    @property
    def base(self) -> Mapping[str, Any]:
        """Base config; empty if it is missing."""
        found = self.settings.get("base")
        return found if isinstance(found, dict) else {}

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the sampled parameters except the seed, in the order of the space."""
        space = self.space.get("parameters")
        order = list(space) if isinstance(space, dict) else []
        seen = dict.fromkeys(name for trial in self.trials for name in trial.parameters)
        return [name for name in order if name in seen] + [name for name in seen if name not in order]

    def of(self, arm: str, state: str | None = None) -> list[Trial]:
        """Return the trials of an arm, by number; only those in a state, if one is given."""
        return [trial for trial in self.trials if trial.arm == arm and state in (None, trial.state)]

    def run(self, trial: Trial) -> Path:
        """Return the run folder of a trial; it may not exist."""
        return self.folder / study_folder.RUNS / trial.name


def read(folder: Path) -> Study:
    """Read a study.

    Raises:
        BadInput: when the folder is not a study, or its files are damaged.
    """
    document = study_folder.read(folder)
    path = folder / study_folder.TRIALS
    trials = [_trial(row, f"{path}: row {number}") for number, row in enumerate(study_folder.trials(folder), 1)]
    if twice := [name for name, times in Counter(trial.name for trial in trials).items() if times > 1]:
        raise BadInput(f"{path}: lists {twice[0]} twice; `pli-train sweep` rewrites the file")
    return Study(folder, document, sorted(trials, key=lambda trial: (ARMS.index(trial.arm), trial.number)))


def _trial(row: Mapping[str, Any], where: str) -> Trial:
    """Check a row of trials.json. Raises BadInput that names the first field with an impossible value."""
    wrong = [name for name in TEXTS if not isinstance(row[name], str | None)]
    wrong += [name for name in NUMBERS if not _is_number(row[name])]
    wrong += [name for name in ("params", "changes", "rungs") if not isinstance(row[name], dict | None)]
    wrong += [] if "params" in wrong or all(map(_is_sampled, (row["params"] or {}).values())) else ["params"]
    wrong += [] if "rungs" in wrong or all(map(_is_rung, (row["rungs"] or {}).items())) else ["rungs"]
    wrong += [] if row[col.ARM] in ARMS else ["arm"]
    wrong += [] if row[col.STATE] in STATES else ["state"]
    wrong += [] if isinstance(row[col.NUMBER], int) and row[col.NUMBER] >= 0 else ["number"]
    wrong += ["value"] if row[col.STATE] == COMPLETE and row[col.VALUE] is None else []
    if wrong:
        raise BadInput(f"{where}: {wrong[0]} is {row[wrong[0]]!r}; the file is damaged, `pli-train sweep` rewrites it")
    return Trial(**{**row, **{name: row[name] or {} for name in ("params", "changes", "rungs")}})


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _is_sampled(value: object) -> bool:
    return isinstance(value, str | bool) or (value is not None and _is_number(value))


def _is_rung(entry: tuple[str, object]) -> bool:
    return entry[0].isdecimal() and entry[1] is not None and _is_number(entry[1])


def best(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials with the lowest mean value over seeds: one per seed. Empty if no trial is complete.

    Only parameter values with the most seeds are considered, and of copies of one run the first, as in
    `pli-train sweep`.
    """
    variants: dict[str, dict[object, Trial]] = defaultdict(dict)
    for trial in trials:
        if trial.state == COMPLETE:
            variants[repr(sorted(trial.parameters.items()))].setdefault(trial.params.get(SEED, 0), trial)
    most = max(map(len, variants.values()), default=0)
    whole = [list(seeds.values()) for seeds in variants.values() if len(seeds) == most]
    return min(whole, key=value_of, default=[])


def value_of(trials: Sequence[Trial]) -> float:
    """Return the mean value of complete trials."""
    return fmean(trial.value for trial in trials if trial.value is not None)


def table(study: Study) -> pd.DataFrame:
    """Return one row for each trial, with a column for each parameter; see docs/sweep.md for the columns."""
    import pandas as pd

    rows = [
        {
            col.ARM: trial.arm,
            col.NUMBER: trial.number,
            col.STATE: trial.state,
            col.VALUE: trial.value,
            col.LOSS: trial.loss,
            col.STEPS: trial.steps,
            col.FLOPS: trial.flops,
            col.SECONDS: trial.seconds,
            col.SEED: trial.seed,
            **{name: trial.params.get(name) for name in study.parameters},
            col.OF_ARM: trial.of_arm,
            col.OF_TRIAL: trial.of_trial,
            col.PRUNED_AT: trial.pruned_at,
            col.ERROR: trial.error,
        }
        for trial in study.trials
    ]
    found = pd.DataFrame(rows, columns=[*FIRST, *study.parameters, *LAST], dtype=object)
    whole = (col.NUMBER, col.STEPS, col.SEED, col.OF_TRIAL, col.PRUNED_AT)
    found = found.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys((col.VALUE, col.LOSS), "float64"))
    found = found.astype(dict.fromkeys((col.FLOPS, col.SECONDS), "float64"))
    for name in study.parameters:
        found[name] = _column(found[name])
    return found.drop(columns=[name for name in LAST if found[name].isna().all()])


def _column(values: pd.Series) -> pd.Series:
    """Return the values of a parameter with one type: numbers, or else text."""
    known = [value for value in values if value is not None and value == value]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return values.astype("Int64" if all(isinstance(value, int) for value in known) else "float64")
    return values.map(lambda value: None if value is None or value != value else label(value))


def label(value: object) -> str:
    """Return a value of a parameter as text.

    >>> label("clone"), label(0.25), label(0.0123456), label(True)
    ('clone', '0.25', '0.01235', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def history(study: Study) -> pd.DataFrame:
    """Return the complete trials of the searched arms with the lowest value of their arm so far."""
    import pandas as pd

    rows = []
    for arm in (GROWTH, BASELINE):
        lowest = math.inf
        for trial in study.of(arm, COMPLETE):
            assert trial.value is not None
            lowest = min(lowest, trial.value)
            rows.append((arm, trial.number, trial.value, lowest))
    return pd.DataFrame(rows, columns=[col.ARM, col.NUMBER, col.VALUE, col.BEST_VALUE])


def arms_of(study: Study) -> list[str]:
    """Return the arms that have trials."""
    return [arm for arm in (GROWTH, BASELINE, CONFIRM) if study.of(arm)]

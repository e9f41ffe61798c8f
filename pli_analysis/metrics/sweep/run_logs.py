"""What the trials of a study cost, and why some were pruned.

`trials.json` has FLOPs and seconds of complete trials only. Those of other trials are the last ones that their runs
logged. A run folder that was removed is counted as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.sweep.trials import Study, Trial, arms_of, best, value_of
from pli_analysis.scalars.reading import Reader, Scalars
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.study_folder import COMPLETE, CONFIRM, FAIL, PRUNED, RUNNING

if TYPE_CHECKING:
    import pandas as pd

Logs = Mapping[str, Scalars]
"""Name of a trial → scalars of its run; trials without a readable log are absent."""


def read(study: Study) -> dict[str, Scalars]:
    """Read the logs of the trials whose FLOPs are not in trials.json, as they did not complete."""
    found = {}
    for trial in study.trials:
        path = study.run(trial)
        if trial.flops is None and path.is_dir():
            try:
                logged = Reader(path).update()
            except (BadInput, OSError):
                continue
            if logged.columns:
                found[trial.name] = logged
    return found


def spent(trial: Trial, logs: Logs) -> tuple[float | None, float | None]:
    """Return FLOPs and seconds of training of a trial, also of one that did not complete; None if not known."""
    if trial.flops is not None:
        return trial.flops, trial.seconds
    if trial.name not in logs:
        return None, None
    last = [logs[trial.name].of(tag).values[-1:] for tag in (run_folder.FLOPS, run_folder.SECONDS)]
    flops, seconds = (float(values[0]) if len(values) else None for values in last)
    return flops, seconds


def arms(study: Study, logs: Logs) -> pd.DataFrame:
    """Return what each arm found and spent.

    Returns:
        One row for each arm with trials:
            arm, trials, complete, pruned, failed, running
            best_trial, best_value     trial with the lowest value, a mean over seeds in a grid; missing for `confirm`
            flops, seconds             sum over trials; seconds of training
            wall_seconds               sum over ended trials of the time from start to end
            uncounted                  trials whose FLOPs and seconds are not known
    """
    import pandas as pd

    rows = []
    for arm in arms_of(study):
        trials = study.of(arm)
        amounts = [spent(trial, logs) for trial in trials]
        found = [] if arm == CONFIRM else best(trials)
        rows.append(
            {
                col.ARM: arm,
                col.TRIALS: len(trials),
                **{
                    column: len(study.of(arm, state))
                    for column, state in (
                        (col.COMPLETE, COMPLETE),
                        (col.PRUNED, PRUNED),
                        (col.FAILED, FAIL),
                        (col.RUNNING, RUNNING),
                    )
                },
                col.BEST_TRIAL: found[0].number if found else None,
                col.BEST_VALUE: value_of(found) if found else np.nan,
                col.FLOPS: float(sum(flops or 0 for flops, _ in amounts)),
                col.SECONDS: float(sum(seconds or 0 for _, seconds in amounts)),
                col.WALL_SECONDS: float(sum(trial.wall_seconds or 0 for trial in trials)),
                col.UNCOUNTED: sum(flops is None for flops, _ in amounts),
            }
        )
    return pd.DataFrame(rows).astype({col.BEST_TRIAL: "Int64"})


@dataclass(frozen=True)
class Pruning:
    """Why a trial was pruned.

    Attributes:
        trial: the pruned trial.
        share: share of the budget at which it was compared; NaN if unknown.
        loss: its eval loss there, interpolated between evaluations; NaN if unknown.
        rivals: number of trials of its arm, itself included, that have reached this share by now.
        rank: rank of its loss among theirs, 1 for the lowest; 0 if unknown.
    """

    trial: Trial
    share: float = np.nan
    loss: float = np.nan
    rivals: int = 0
    rank: int = 0


def prunings(study: Study) -> list[Pruning]:
    """Compare each pruned trial with the trials of its arm at the same share of the budget."""
    pruned = [trial for trial in study.trials if trial.state == PRUNED and trial.pruned_at is not None]
    return [_pruning(trial, study.of(trial.arm)) for trial in pruned]


def _pruning(trial: Trial, arm: Sequence[Trial]) -> Pruning:
    if not trial.rungs:
        return Pruning(trial)
    rung = max(trial.rungs, key=int)
    losses = [other.rungs[rung] for other in arm if rung in other.rungs]
    rank = 1 + sum(loss < trial.rungs[rung] for loss in losses)
    return Pruning(trial, int(rung) / 100, trial.rungs[rung], len(losses), rank)


def pruned_table(found: Sequence[Pruning]) -> pd.DataFrame:
    """Return one row for each pruned trial: see `Pruning`."""
    import pandas as pd

    columns = [col.ARM, col.NUMBER, col.PRUNED_AT, col.PRUNED_SHARE, col.PRUNED_LOSS, col.RIVALS, col.RANK]
    rows = [(p.trial.arm, p.trial.number, p.trial.pruned_at, p.share, p.loss, p.rivals, p.rank) for p in found]
    return pd.DataFrame(rows, columns=columns)

"""What the run folders of a study log: FLOPs and seconds spent, and the losses behind pruning.

`trials.json` has FLOPs and seconds of complete trials only. Those of other trials are the last ones that their runs
logged. A run folder that was removed is counted as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.loss import at_steps
from pli_analysis.metrics.sweep.trials import Study, Trial, arms_of, best, value_of
from pli_analysis.scalars.reading import Reader, Scalars
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.study_folder import COMPLETE, CONFIRM, FAIL, PRUNED, PRUNING_FACTOR, RUNNING

if TYPE_CHECKING:
    import pandas as pd

Logs = Mapping[str, Scalars]
"""Name of a trial → scalars of its run; trials without a readable log are absent."""


def read(study: Study, all_trials: bool = True) -> dict[str, Scalars]:
    """Read the logs of a study's runs; without `all_trials`, only those of trials that did not complete."""
    found = {}
    for trial in study.trials:
        path = study.run(trial)
        if (all_trials or trial.flops is None) and path.is_dir():
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
        share: share of the planned FLOPs that it had used; NaN if unknown.
        loss: its eval loss at the step of the decision; NaN if its run is missing.
        rivals: number of trials of its arm, itself included, with a loss at this share of their planned FLOPs.
        limit: highest loss of the best third of the rivals there; NaN if the loss is not known.
    """

    trial: Trial
    share: float
    loss: float
    rivals: int
    limit: float


def prunings(study: Study, logs: Logs) -> list[Pruning]:
    """Compare each pruned trial with the trials of its arm at the same share of the budget.

    Rivals are all trials that have reached this share by now, also later ones. Losses of rivals are interpolated
    linearly between evaluations.
    """
    found = []
    for trial in study.trials:
        if trial.state == PRUNED and trial.pruned_at is not None:
            share, loss = _at(trial, logs, trial.pruned_at)
            others = [_loss_at(other, logs, share) for other in study.of(trial.arm) if other is not trial]
            losses = np.sort([loss, *(other for other in others if np.isfinite(other))])
            limit = losses[max(len(losses) // PRUNING_FACTOR - 1, 0)] if np.isfinite(loss) else np.nan
            found.append(Pruning(trial, share, loss, len(losses), float(limit)))
    return found


def pruned_table(found: Sequence[Pruning]) -> pd.DataFrame:
    """Return one row for each pruned trial: see `Pruning`."""
    import pandas as pd

    columns = [col.ARM, col.NUMBER, col.PRUNED_AT, col.PRUNED_SHARE, col.PRUNED_LOSS, col.RIVALS, col.RIVAL_LOSS]
    rows = [(p.trial.arm, p.trial.number, p.trial.pruned_at, p.share, p.loss, p.rivals, p.limit) for p in found]
    return pd.DataFrame(rows, columns=columns)


def _at(trial: Trial, logs: Logs, step: int) -> tuple[float, float]:
    """Return the used share of the planned FLOPs, and the eval loss, at a step."""
    logged = logs.get(trial.name, Scalars())
    flops = float(at_steps(logged, col.FLOPS, np.array([step]))[0])
    planned = trial.planned_flops
    share = flops / planned if planned else step / trial.steps if trial.steps else np.nan
    loss = logged.at(run_folder.EVAL_LOSS, step)
    return share, np.nan if loss is None else loss


def _loss_at(trial: Trial, logs: Logs, share: float) -> float:
    """Return the eval loss at a share of the planned FLOPs; NaN if the trial has not reached it."""
    steps, _, losses = logs.get(trial.name, Scalars()).of(run_folder.EVAL_LOSS)
    if not len(steps):
        return np.nan
    if trial.planned_flops:
        used = at_steps(logs[trial.name], col.FLOPS, steps) / trial.planned_flops
    else:
        used = steps / (trial.steps or np.nan)
    return float(np.interp(share, used, losses, left=np.nan, right=np.nan))

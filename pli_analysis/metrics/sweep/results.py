"""All results of a study: trials, cost, confirmation, parameter importance, pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis.metrics.sweep import confirmation, importance, run_logs, trials
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.sweep.confirmation import Confirmation
    from pli_analysis.metrics.sweep.importance import Importance
    from pli_analysis.metrics.sweep.run_logs import Pruning
    from pli_analysis.metrics.sweep.trials import Study


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        study: its settings and trials.
        table: one row per trial: see `metrics.sweep.trials.table`.
        arms: one row per arm, with results and cost: see `metrics.sweep.run_logs.arms`.
        confirmation: means and paired difference of the confirmation trials; None if there are none.
        importance: importance of the parameters of the growth arm.
        prunings: when each pruned trial was pruned, and the losses that it is compared with.
    """

    study: Study
    table: pd.DataFrame
    arms: pd.DataFrame
    confirmation: Confirmation | None
    importance: Importance
    prunings: Sequence[Pruning]


def results(folder: Path) -> Results:
    """Read a study and compute its results.

    Raises:
        BadInput: when the folder is not a study, its files are damaged, or it has no trials yet.
    """
    study = trials.read(folder)
    if not study.trials:
        raise BadInput(f"{folder}: has no trials yet; wait until `pli-train sweep` has started one")
    return Results(
        study,
        trials.table(study),
        run_logs.arms(study, run_logs.read(study)),
        confirmation.confirmation(study),
        importance.importance(study),
        run_logs.prunings(study),
    )

"""Search over growth strategies: start or resume a study."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.core.run_format import study_folder
from pli_train.sweep import arms, database, space_reading
from pli_train.sweep.changes import base_config, require_values
from pli_train.sweep.confirmation import confirmation, confirmed
from pli_train.sweep.coordinator import Coordinator
from pli_train.sweep.launchers.local import LocalLauncher, count_gpus
from pli_train.sweep.space import with_seeds
from pli_train.sweep.study import Settings, Study
from pli_train.sweep.summary import summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pli_train.sweep.space import Space
    from pli_train.sweep.trial_config import TrialConfigs
    from pli_train.sweep.worker import Launcher


def settings_of(
    found: Space, goal: str, budget: float | None, sampler: str | None, pruner: str, seed: int, baseline: bool
) -> Settings:
    """Return the settings of a study. Raises BadInput for options that contradict each other."""
    if sampler == "grid" and not found.is_grid:
        found = replace(found, parameters=tuple(with_seeds(found.parameters, 1)), seeds=1)
    if found.is_grid and sampler not in (None, "grid"):
        raise BadInput(f"--sampler {sampler}: a grid runs all its points; omit --sampler, or --grid and --seeds")
    if goal == "seconds" and budget is None:
        raise BadInput("--objective seconds: needs --budget SECONDS, the training time at which losses are compared")
    if budget is not None and budget <= 0:
        raise BadInput(f"--budget {budget:g}: must be above 0")
    kind = "grid" if found.is_grid else sampler or "tpe"
    return Settings(found, goal, budget, kind, pruner, seed, baseline)


def launcher_of(kind: str, workers: int | None, threads: int | None, options: Sequence[str], folder: Path) -> Launcher:
    """Return the launcher that starts the workers. Raises BadInput when it cannot be used."""
    if kind == "local":
        if options:
            raise BadInput(f"--launcher-option {options[0]}: applies only to --launcher slurm and ray")
        return LocalLauncher(workers, count_gpus(), threads)
    if workers is None:
        raise BadInput(f"--launcher {kind}: needs --workers N, the number of parallel runs")
    given = space_reading.assigned(options, "--launcher-option")
    if kind == "slurm":
        from pli_train.sweep.launchers.slurm import SlurmLauncher

        return SlurmLauncher(folder, workers, threads or 1, given)
    from pli_train.sweep.launchers.ray import RayLauncher

    return RayLauncher(workers, threads or 1, given)


def require(settings: Settings, folder: Path, storage: str | None = None) -> None:
    """Check everything about a study that needs neither a corpus nor a model. Raises BadInput."""
    base = base_config(settings.space)
    Study.require(folder, settings, base.model_dump(mode="json"))
    if study_folder.is_study(folder):
        return  # its values were checked when it started
    if storage is not None:
        database.require(storage)
    require_values(base, arms.spaces(settings, base))


def sweep(
    settings: Settings,
    folder: Path,
    trials: int,
    launcher: Launcher,
    confirm: int = 0,
    storage: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a study to its end, or resume it.

    Args:
        settings: settings of the study.
        folder: study folder.
        trials: number of trials per arm, if the space is searched.
        launcher: starts the workers.
        confirm: number of new seeds with which the best trial of each arm is repeated.
        storage: URL of a database, if several machines share the study.
        say: called with each line of progress.

    Raises:
        BadInput: when the space is invalid, or the folder contains something else.
        Interrupted: after a request to stop.
        PliError: when a file cannot be written, the database fails, or all trials of an arm fail.
    """
    base = base_config(settings.space)
    made = arms.arms(settings, base, trials)
    budget = None

    @cache
    def configs() -> TrialConfigs:
        from pli_train.sweep.budget import Planner
        from pli_train.sweep.trial_config import TrialConfigs

        found = TrialConfigs(settings.space, settings.objective, settings.budget, Planner(say))
        found.check(arms.spaces(settings, base))
        return found

    if not study_folder.is_study(folder):  # check the space before the folder is created
        budget = configs().budget
    study = Study.open(folder, settings, base.model_dump(mode="json"), budget, storage, say)
    with closing(study), database.failures_as_errors():
        Coordinator(study, made, launcher, configs, say).run()
        lines = [*summary(study)]
        if confirm:
            again = confirmation(study, arms.spaces(settings, base), confirm)
            Coordinator(study, [again], launcher, configs, say).run()
            lines += confirmed(study, again.wanted)
        for line in lines:
            say(line)

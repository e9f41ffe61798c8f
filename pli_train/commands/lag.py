"""Compare candidates for each growth event some steps after it, and continue the run with the best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput, counted
from pli_train.sweep.changes import base_config
from pli_train.sweep.lag import folder as folders
from pli_train.sweep.lag.candidates import require_events, tables_of, values_of
from pli_train.sweep.lag.summary import summary
from pli_train.sweep.objective import recovery_steps
from pli_train.sweep.pool import Pool

if TYPE_CHECKING:
    from pli_train.sweep.lag.candidates import Candidate, Moment
    from pli_train.sweep.lag.comparison import Choices, Comparison
    from pli_train.sweep.space import Space
    from pli_train.sweep.worker import Launcher

Compared = list[tuple["Moment", list["Candidate"]]]


def require(space: Space, folder: Path, steps: int | None = None, orders: int = 2) -> None:
    """Check everything about a comparison that needs neither a corpus nor a model. Raises BadInput."""
    values, base = values_of(space), base_config(space)
    if isinstance(base.growth.schedule, str | list):
        require_events(base.name, base.growth.schedule)
    settings = folders.Settings(base, tuple(values), steps or 0, orders).to_table()
    if steps is None:  # computed from the plan of the run
        del settings["steps"]
    folders.require(folder, settings)


def lag(
    space: Space,
    folder: Path,
    launcher: Launcher,
    steps: int | None = None,
    orders: int = 2,
    complete: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Run a comparison to its end, or resume it.

    Args:
        space: base config, and the values of the candidates.
        folder: folder of the comparison.
        launcher: starts workers.
        steps: number of steps after growth at which candidates are compared; None for the recovery window of events.
        orders: number of data orders.
        complete: also train all candidates to the end of training.
        say: called with each line of progress.

    Raises:
        BadInput: when the candidates are invalid or `steps` is too large, or the folder contains something else.
        Interrupted: after a request to stop.
        PliError: when the run fails, or all candidates of an event fail.
    """
    from pli_train.sweep.budget import Planner
    from pli_train.sweep.lag.comparison import Choices, Comparison

    values = values_of(space)
    base = base_config(space)
    choices = Choices(base, values, Planner(say))
    compared = _compared(choices)
    settings = folders.Settings(base, tuple(values), _steps(compared, steps, say), orders)
    lock, threads = folders.open_folder(folder, settings.to_table(), launcher.threads)
    try:
        comparison = Comparison(folder, settings, choices, Pool(launcher, say), threads, say)
        comparison.run(complete)
        for line in summary(comparison):
            say(line)
    finally:
        lock.release()
    return comparison


def _compared(choices: Choices) -> Compared:
    """Return the moments with several candidates, if the schedule before is that of the base config.

    Raises:
        BadInput: when a candidate is impossible at all moments, or there is nothing to compare.
    """
    schedule = tables_of(choices.plan)
    found: Compared = []
    wrong: list[dict[str, list[str]]] = []
    for moment in choices.moments:
        candidates, mistakes = choices.at(moment, schedule)
        wrong.append(mistakes)
        if len(candidates) > 1:
            found.append((moment, candidates))
    if always := [name for name in wrong[0] if all(name in each for each in wrong)]:
        raise BadInput(*(f"{name}: {line}" for name in always for line in wrong[0][name]))
    if not found:
        raise BadInput(
            f"{choices.plan.config.name}: all candidates are the same at each growth event: their keys are not fields "
            "of its operators"
        )
    return found


def _steps(compared: Compared, steps: int | None, say: Callable[[str], None]) -> int:
    """Return the number of steps after growth. Raises BadInput when it exceeds the time to the next event."""
    if steps is not None:
        if wrong := [moment for moment, _ in compared if steps > moment.end - moment.step]:
            raise BadInput(
                *(
                    f"--lag {steps}: event {moment.number} is at step {moment.step}, and the next event or the end of "
                    f"training at step {moment.end}; give at most {moment.end - moment.step}"
                    for moment in wrong
                )
            )
        return steps
    found = max(
        recovery_steps(each.plan.config.train.eval_every, event.learning_rate, event.rewarm_steps, event.freeze_steps)
        for moment, candidates in compared
        for each in candidates
        for event in (planned.event for planned in each.plan.events[moment.first : moment.last])
    )
    for moment, candidates in compared:
        if found > (room := moment.end - moment.step):
            is_last = moment.end == candidates[0].plan.total_steps
            follows = "training ends" if is_last else "the next event follows"
            say(
                f"event {moment.number}: candidates are compared after {counted(room, 'step')} instead of {found}, "
                f"because {follows} at step {moment.end}"
            )
    return found

"""Landscape-Aware Growing: train candidates for some steps after each growth event, and continue with the best.

The early loss after growth predicts the final loss better than the loss right after growth does (Karp et al. 2024,
arXiv:2406.02469). The run pauses before each event. For each candidate and data order, a twin is forked there and
trained for a number of steps. The run then continues with the candidate whose mean eval loss is the lowest.

There is no state besides the run folders: each choice is computed from the losses of the twins, so a comparison that
was killed repeats no finished work and makes the same choices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pli_train.checkpointing import checkpoint
from pli_train.config import loading
from pli_train.config.keys import to_toml
from pli_train.core import output
from pli_train.core.errors import BadInput, PliError, counted
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.sweep import objective
from pli_train.sweep.budget import flops_per_step
from pli_train.sweep.changes import SCHEDULE, changed
from pli_train.sweep.lag.candidates import Candidate, Moment, Table, Values, described, grown, moments_of, tables_of
from pli_train.sweep.lag.folder import MAIN, Row, Settings, candidate_name, write_table
from pli_train.sweep.pool import is_done
from pli_train.sweep.trial_config import CHECKPOINTS
from pli_train.sweep.worker import Task
from pli_train.training import twin

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.sweep.budget import Planner
    from pli_train.sweep.pool import Pool

ORDER = "train.order"


class Choices:
    """The candidates at each moment, given the schedule that was chosen before.

    Args:
        base: base config.
        values: key → value of each candidate.
        planner: plans runs.

    Attributes:
        planner: plans runs.
        plan: plan of the base config.
        moments: moments of growth.

    Raises:
        BadInput: when the base config is invalid or has no events with a time.
    """

    def __init__(self, base: RunConfig, values: Sequence[Values], planner: Planner) -> None:
        self._base, self._values, self.planner = base, values, planner
        self.plan = planner.plan(base)
        self.moments = moments_of(self.plan)

    def at(self, moment: Moment, schedule: list[Table]) -> tuple[list[Candidate], dict[str, list[str]]]:
        """Return the distinct candidates at a moment, and for each impossible one what is wrong.

        Args:
            moment: the moment.
            schedule: tables of all events, with the choices of earlier moments.
        """
        found: list[Candidate] = []
        wrong: dict[str, list[str]] = {}
        before = self._before(moment, schedule)
        for number, values in enumerate(self._values):
            tables = grown(values, schedule, moment, before, self.plan.start.first_index)
            if any(tables == other.schedule for other in found):
                continue
            source = f"candidate with {described(values)}"
            try:
                plan = self.planner.plan(with_schedule(self._base, tables, source))
            except BadInput as error:
                wrong[source] = [line.removeprefix(f"{source}: ") for line in error.mistakes]
                continue
            found.append(Candidate(number, values, tables, plan))
        return found, wrong

    def _before(self, moment: Moment, schedule: list[Table]) -> Lineage:
        if moment.first == 0:
            return self.plan.start.lineage()
        plan = self.planner.plan(with_schedule(self._base, schedule, self._base.name))
        return plan.events[moment.first - 1].lineage


class Comparison:
    """Runs a comparison.

    Args:
        folder: its folder, opened.
        settings: its settings.
        choices: the candidates at each moment.
        pool: runs tasks.
        threads: OpenMP threads of each worker.
        say: called with each line of progress.

    Attributes:
        rows: the table of candidates so far.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        choices: Choices,
        pool: Pool,
        threads: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder, self._settings, self._choices, self._pool = folder, settings, choices, pool
        self._threads, self._say = threads, say
        self.rows: list[Row] = []

    def run(self, complete: bool = False) -> None:
        """Train the run to its end, with the best candidate at each moment.

        Args:
            complete: also train all candidates to the end, with the later events of the base config.

        Raises:
            Interrupted: after a request to stop.
            PliError: when the run fails, all candidates of a moment fail, or a file cannot be written.
        """
        schedule = tables_of(self._choices.plan)
        if is_done(self._task(MAIN)):
            self._say(f"{self._folder}: the run is finished; its choices are read again")
        for moment in self._choices.moments:
            found, wrong = self._choices.at(moment, schedule)
            for source, lines in wrong.items():
                self._say(f"event {moment.number}: {source} is left out: {lines[0]}")
            if not found:
                raise PliError(f"event {moment.number}: no candidate is possible after the events before it")
            if len(found) == 1:
                self._say(f"event {moment.number}: all candidates are the same")
                schedule = found[0].schedule
            else:
                self._train(schedule, moment.step)
                schedule = self._best(moment, found).schedule
        self._train(schedule)
        if complete:
            self._complete()

    def main_flops(self) -> int:
        """Return the FLOPs of the finished run."""
        return objective.result(self._task(MAIN).run).flops

    def completion_flops(self) -> int:
        """Return the FLOPs of training candidates to the end, after the steps at which they were compared."""
        total = 0
        for row in self.rows:
            if row.final_loss is not None:
                flops = objective.result(self._task(row.run).run).flops
                total += flops - _flops_at(self._fork_point(row.step)) - row.flops
        return total

    # --- the run ----------------------------------------------------------------------------------------------------

    def _train(self, schedule: list[Table], until: int | None = None) -> None:
        """Train the run to a step, or to its end, with the choices made so far."""
        task = self._task(MAIN, until)
        if is_done(task):
            return
        config = with_schedule(self._settings.base, schedule, self._settings.base.name)
        output.write(task.config, to_toml(config))
        if (task.run / run_folder.RUN).is_file():
            _set_schedule(task.run, schedule)
        if error := self._pool.run([task]).get(MAIN):
            raise PliError(f"{task.run}: failed: {error} (log: {task.log})")

    def _task(self, name: str, until: int | None = None) -> Task:
        return Task(self._folder, name, self._threads, until)

    def _fork_point(self, step: int) -> Path:
        """Return the checkpoint of the run right before the events of a step."""
        return self._task(MAIN).run / str(run_folder.CheckpointName(step, after=False))

    # --- candidates -------------------------------------------------------------------------------------------------

    def _best(self, moment: Moment, found: Sequence[Candidate]) -> Candidate:
        """Train candidates after a moment, and return the one with the lowest mean loss."""
        steps = min(self._settings.steps, moment.end - moment.step)
        until = moment.step + steps
        rows = [self._row(moment, each, order, steps) for each in found for order in range(self._settings.orders)]
        for row in rows:
            self._fork(row, next(each for each in found if each.number == row.candidate))
        tasks = [self._task(row.run, until) for row in rows]
        many, are_done = counted(len(found), "candidate"), all(is_done(task) for task in tasks)
        words = f"{many} were trained for" if are_done else f"{many} for"
        self._say(f"event {moment.number}, step {moment.step}: {words} {counted(steps, 'step')}")
        errors = self._pool.run(tasks)
        for row in rows:
            run = self._task(row.run).run
            row.error = errors.get(row.run, "")
            row.loss_at_birth = _loss(run, run_folder.EVAL_LOSS_AFTER_EVENT, moment.step)
            row.loss = None if row.error else _loss(run, run_folder.EVAL_LOSS, until)
            row.final_loss = objective.result(run).loss if objective.is_finished(run) else None
        chosen = _rank(rows)
        self.rows += rows
        write_table(self._folder, self.rows)
        if chosen is None:
            raise PliError(
                f"event {moment.number}: all candidates failed: {rows[0].error or 'their loss is not finite'}"
            )
        best = next(each for each in found if each.number == chosen)
        self._say(f"event {moment.number}: continue with {best}")
        return best

    def _row(self, moment: Moment, candidate: Candidate, order: int, steps: int) -> Row:
        lineage = candidate.plan.events[moment.last - 1].lineage
        return Row(
            event=moment.number,
            step=moment.step,
            candidate=candidate.number,
            values=str(candidate),
            order=self._settings.base.train.order + order,
            run=candidate_name(moment.number, candidate.number, order),
            steps=steps,
            flops=steps * flops_per_step(candidate.plan, lineage),
        )

    def _fork(self, row: Row, candidate: Candidate) -> None:
        """Create the twin of a candidate, unless it exists. The first data order is that of the run."""
        out, main, source = self._task(row.run).run, self._task(MAIN).run, self._fork_point(row.step)
        if (out / run_folder.RUN).is_file():
            return
        if (flaw := run_folder.flaw(source)) or not run_folder.is_full(source):
            raise BadInput(f"{source}: {flaw or 'holds only weights'}; candidates cannot be forked from it")
        changes = {
            "name": row.run,
            ORDER: row.order,
            SCHEDULE: candidate.schedule,
            "checkpoint.every": max(1, candidate.plan.total_steps // CHECKPOINTS),
            "checkpoint.keep": 1,
            "checkpoint.full_last": 1,
            "tracking.tensorboard": True,  # the losses are read from its files
        }
        plan = self._choices.planner.plan(changed(loading.of_run(main), changes, str(main)))
        twin.check(plan, Lineage.read(source / run_folder.LINEAGE), row.step)
        twin.create(main, source, out, plan)

    def _complete(self) -> None:
        """Train all candidates to the end."""
        rows = [row for row in self.rows if not row.error]
        errors = self._pool.run([self._task(row.run) for row in rows])
        for row in rows:
            row.error = errors.get(row.run, "")
            if not row.error:
                row.final_loss = objective.result(self._task(row.run).run).loss
        write_table(self._folder, self.rows)


def with_schedule(config: RunConfig, schedule: list[Table], source: str) -> RunConfig:
    """Return a config with an explicit schedule. Raises BadInput that names `source`."""
    return changed(config, {SCHEDULE: schedule}, source)


def _set_schedule(run: Path, schedule: list[Table]) -> None:
    """Change the schedule in the config of a paused run."""
    record = run_folder.read_json(run / run_folder.RUN)
    if record["config"]["growth"]["schedule"] != schedule:
        record["config"]["growth"]["schedule"] = schedule
        checkpoint.write_text(run / run_folder.RUN, json.dumps(record, indent=1) + "\n")


def _rank(rows: Sequence[Row]) -> int | None:
    """Rank candidates by their mean loss over data orders. Return the first; None if all failed."""
    losses: dict[int, list[float]] = {}
    for row in rows:
        losses.setdefault(row.candidate, []).append(math.nan if row.loss is None else row.loss)
    means = {number: mean for number, found in losses.items() if math.isfinite(mean := fmean(found))}
    ranked = sorted(means, key=lambda number: (means[number], number))
    for row in rows:
        row.rank = ranked.index(row.candidate) + 1 if row.candidate in ranked else None
        row.chosen = row.rank == 1
    return ranked[0] if ranked else None


def _loss(run: Path, tag: str, step: int) -> float | None:
    return dict(objective.scalars(run, tag)).get(step)


def _flops_at(source: Path) -> int:
    return int(objective.counts(run_folder.read_json(source / run_folder.TRAINER_STATE))["flops"])

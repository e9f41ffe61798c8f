"""Run a study: ask for trials, start a worker for each, and store their results.

The coordinator is the only process that writes to the study. All its state is in the storage (planned trials) and in
the run folders (progress), so nothing is lost when it is killed. Workers that are still running are found by their
locks.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from pli_train.config import loading
from pli_train.core import output
from pli_train.core.errors import BadInput, PliError, counted
from pli_train.core.run_format import study_folder
from pli_train.sweep import database, objective, pruning
from pli_train.sweep.study import PLAN, PRUNED_AT, RESULT, Study
from pli_train.sweep.worker import FoundWorker, Task, claim
from pli_train.sweep.worker_ends import POLL, REQUESTS, STOPPING, Deaths, Interrupted, error_of, stop_all, was_killed
from pli_train.training.signals import StopSignal

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from pli_train.config.schema import RunConfig
    from pli_train.sweep.arms import Arm
    from pli_train.sweep.confirmation import Confirmation
    from pli_train.sweep.trial_config import TrialConfigs
    from pli_train.sweep.worker import Launcher, Worker

PRUNE_EVERY = 5.0
"""Seconds between two reads of a run's evaluations, if trials are pruned."""
WAIT = 2.0
"""Seconds between two polls of a database while other machines run the last trials."""
OUTAGE = 1800.0
"""Seconds without a database after which the study stops."""
FAILURES = 3
"""Number of failed trials, without a successful one, after which the study stops."""


@dataclass
class Job:
    """A trial that has started and not ended.

    Attributes:
        arm: name of its arm.
        trial: its state when it was created or planned.
        task: task of its worker.
        worker: its worker; None if none was started.
        deaths: how often its worker was killed.
        evaluations_read: when its evaluations were last read (`time.monotonic`).
        pruned: whether it is being pruned.
    """

    arm: str
    trial: FrozenTrial
    task: Task
    worker: Worker | None = None
    evaluations_read: float = 0.0
    pruned: bool = False
    deaths: Deaths = field(init=False)

    def __post_init__(self) -> None:
        self.deaths = Deaths(self.task.run)

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run."""
        return loading.load(str(self.task.config))


class Coordinator:
    """Runs a study to its end, or until a request to stop.

    Args:
        study: an open study.
        arms: arms of the study, with their number of trials.
        launcher: starts workers.
        configs: returns the maker of trial configs; called when the first trial is planned.
        say: called with each line of progress.
    """

    def __init__(
        self,
        study: Study,
        arms: Sequence[Arm | Confirmation],
        launcher: Launcher,
        configs: Callable[[], TrialConfigs],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._study, self._arms, self._launcher, self._say = study, arms, launcher, say
        self._configs = configs
        self._jobs: dict[int, Job] = {}
        self._pending: list[Job] = []
        self._claimed: list[Job] = []
        self._pending = self._interrupted()
        self._beaten = time.monotonic()
        self._outage: float | None = None

    def run(self) -> None:
        """Run all trials that are missing.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGHUP.
            PliError: when a file cannot be written, all trials of an arm fail, or the database is down for long.
            StorageInternalError: when the database fails at the end.
        """
        with StopSignal(self._say, STOPPING, REQUESTS) as stop:
            try:
                while not stop.asked and self._advance_or_wait():
                    time.sleep(POLL if self._jobs else WAIT)
            finally:
                stop_all([job.worker for job in self._jobs.values() if job.worker is not None], stop)
                self._study.write_table(now=True)
        if stop.asked:
            raise Interrupted(f"stopped: {self._progress()}; run the same command to resume")

    def is_done(self) -> bool:
        """Whether all trials have ended."""
        return not (self._jobs or self._pending or self._claimed) and all(self._missing(arm) == 0 for arm in self._arms)

    def _advance_or_wait(self) -> bool:
        """Advance, unless the database is down: then wait. What was left undone is found again by `_interrupted`."""
        try:
            going = self._advance()
        except StorageInternalError as error:
            if self._outage is None:
                self._outage = time.monotonic()
                self._say(f"the database failed ({database.cause(error)}); waiting for it while workers continue")
            elif time.monotonic() > self._outage + OUTAGE:
                raise
            self._beaten = -math.inf  # with the next heartbeat, trials without a worker are taken up again
            time.sleep(WAIT)
            return True
        if self._outage is not None:
            self._say("the database works again")
            self._outage = None
        return going

    # --- which trial is next -----------------------------------------------------------------------------------------

    def _advance(self) -> bool:
        """Check the workers, and start new ones. Returns False when all trials have ended."""
        for slot, job in list(self._jobs.items()):
            self._follow(slot, job)
        self._pending, self._claimed = self._pending + self._claimed, []
        free = [slot for slot in range(self._launcher.slots) if slot not in self._jobs]
        while free and (following := self._next()) is not None:
            self._start(free[0], following)
            free = [slot for slot in free if slot not in self._jobs]
        self._study.write_table()
        if self._study.is_shared and time.monotonic() > self._beaten + database.HEARTBEAT / 2:
            self._beaten = time.monotonic()
            self._study.heartbeat(job.trial for job in self._jobs.values())
            self._pending += self._interrupted()
        return bool(self._jobs or self._pending or self._claimed) or self._others_run()

    def _interrupted(self) -> list[Job]:
        """Running trials of an earlier coordinator or a lost machine that this one has not taken over yet."""
        seen = {(job.arm, job.trial.number) for job in [*self._jobs.values(), *self._pending]}
        return [
            self._job(arm.name, trial)
            for arm in self._arms
            for trial in self._study.stale(arm.name)
            if (arm.name, trial.number) not in seen
        ]

    def _others_run(self) -> bool:
        """Whether other machines run trials, which this one takes over if those machines are lost."""
        return self._study.is_shared and any(self._study.trials(arm.name, (TrialState.RUNNING,)) for arm in self._arms)

    def _next(self) -> Job | None:
        """The next trial: an interrupted one, or else a new one of the arm with the largest share left."""
        if self._pending:
            return self._pending.pop(0)
        behind = [(self._missing(arm) / arm.target, arm) for arm in self._arms if self._missing(arm) > 0]
        if not behind:
            return None
        arm = max(behind, key=lambda each: each[0])[1]
        return self._job(arm.name, self._study.ask(arm.name))

    def _missing(self, arm: Arm | Confirmation) -> int:
        return max(0, arm.target - len(self._study.trials(arm.name)))

    def _job(self, arm: str, trial: FrozenTrial) -> Job:
        threads = trial.user_attrs.get(PLAN, {}).get("threads", self._launcher.threads)
        task = Task(self._study.folder, study_folder.trial_name(arm, trial.number), threads)
        return Job(arm, trial, task, pruned=PRUNED_AT in trial.user_attrs)

    # --- from a trial to its end ------------------------------------------------------------------------------------

    def _start(self, slot: int, job: Job) -> None:
        """Plan a job if it has no plan yet, and start its worker unless its run is finished."""
        if PLAN not in job.trial.user_attrs and not self._plan(job):
            return
        self._jobs[slot] = job
        self._begin_or_end(slot, job)

    def _begin_or_end(self, slot: int, job: Job) -> None:
        if objective.is_finished(job.task.run):
            self._end(slot, job, *self._result(job))
            return
        job.deaths.start()
        if job.pruned:
            job.worker = FoundWorker(job.task)
            job.worker.signal(signal.SIGTERM)
        else:
            job.worker = self._launcher.start(job.task, slot)

    def _plan(self, job: Job) -> bool:
        """Plan a trial unless another machine plans it. Returns whether its worker may start."""
        arm = next(arm for arm in self._arms if arm.name == job.arm)
        if (lock := claim(job.task)) is None:
            if not self._study.is_shared:  # its plan is lost with the end of the journal, but its worker is alive
                self._claimed.append(job)
            return False  # a machine that plans it goes on with it, or is lost and the trial is found again
        with lock:
            job.trial = self._study.storage.get_trial(job.trial._trial_id)
            if PLAN in job.trial.user_attrs:
                return True
            return not self._study.is_surplus(arm.name, job.trial, arm.target) and self._store_plan(arm, job)

    def _store_plan(self, arm: Arm | Confirmation, job: Job) -> bool:
        """Sample a trial's parameters, write its config, and store the plan. Returns False when the trial failed."""
        proposal = arm.propose(self._study, job.trial)
        try:
            planned = self._configs().plan(proposal.arm, proposal.chosen, job.task.name)
        except BadInput as error:
            self._record_end(job, TrialState.FAIL, {"error": error.mistakes[0]})
            return False
        output.write(job.task.config, planned.to_toml())  # before the plan, which refers to it
        plan = {
            "run": job.task.name,
            "seed": planned.config.seed,
            "steps": planned.steps,
            "planned_flops": planned.flops,
            "threads": job.task.threads,
            "changes": {key: value for key, value in planned.changes.items() if value is not None},
            "budget": self._configs().budget,
            **proposal.attributes,
        }
        self._study.set(job.trial, PLAN, plan)
        job.trial = self._study.storage.get_trial(job.trial._trial_id)
        return True

    def _follow(self, slot: int, job: Job) -> None:
        """Prune, finish or restart a job, depending on the state of its worker."""
        assert job.worker is not None
        code = job.worker.poll()
        if code is None:
            self._prune_if_behind(job)
        elif objective.is_finished(job.task.run) and not job.pruned:
            self._end(slot, job, *self._result(job))
        elif job.pruned:
            self._end(slot, job, TrialState.PRUNED, {})
        elif was_killed(code):
            self._restart(slot, job, code)
        else:
            self._end(slot, job, TrialState.FAIL, {"error": error_of(job.task, code)})

    def _restart(self, slot: int, job: Job, code: int) -> None:
        """Resume a run whose worker was killed, unless it is killed repeatedly without a new checkpoint."""
        if error := job.deaths.add(code):
            self._end(slot, job, TrialState.FAIL, {"error": error})
        else:
            self._begin_or_end(slot, job)

    def _result(self, job: Job) -> tuple[TrialState, dict[str, Any]]:
        """Read the result of a finished run."""
        settings = self._study.settings
        try:
            found = objective.result(job.task.run)
            value = objective.value(found, settings.objective, job.trial.user_attrs[PLAN]["budget"], job.task.run)
        except BadInput as error:
            return TrialState.FAIL, {"error": str(error)}
        result = {"loss": found.loss, "flops": found.flops, "tokens": found.tokens, "seconds": found.seconds}
        if not math.isfinite(value):
            return TrialState.FAIL, {"error": f"its {settings.objective} objective is {value}"}
        return TrialState.COMPLETE, {**result, "value": value}

    def _end(self, slot: int, job: Job, state: TrialState, result: dict[str, Any]) -> None:
        del self._jobs[slot]
        self._record_end(job, state, result)

    def _record_end(self, job: Job, state: TrialState, result: dict[str, Any]) -> None:
        self._study.finish(job.arm, job.trial, state, result)
        described = {
            TrialState.COMPLETE: lambda: f"{result['value']:.4f}",
            TrialState.PRUNED: lambda: "pruned",
            TrialState.FAIL: lambda: f"failed: {result['error']}",
        }[state]()
        self._say(f"{job.task.name}: {described} ({self._progress()})")
        if state == TrialState.FAIL:
            self._give_up_if_all_fail(job.arm)

    def _give_up_if_all_fail(self, arm: str) -> None:
        ended = [trial for trial in self._study.trials(arm) if trial.state.is_finished()]
        if len(ended) < FAILURES or any(trial.state != TrialState.FAIL for trial in ended):
            return
        error, count = Counter(trial.user_attrs[RESULT]["error"] for trial in ended).most_common(1)[0]
        logs = self._study.folder / study_folder.LOGS
        raise PliError(
            f"{self._study.folder}: all {len(ended)} trials of the arm {arm} failed, {count} of them with: {error} "
            f"(logs: {logs})"
        )

    def _progress(self) -> str:
        ended = [t for arm in self._arms for t in self._study.trials(arm.name) if t.state.is_finished()]
        return f"{len(ended)} of {counted(sum(arm.target for arm in self._arms), 'trial')}"

    # --- pruning and stopping ---------------------------------------------------------------------------------------

    def _prune_if_behind(self, job: Job) -> None:
        """Report a run's rungs, and stop its worker if the pruner decides so. Confirmation trials run on."""
        if self._study.settings.pruner == "none" or job.arm == study_folder.CONFIRM or job.pruned:
            return
        if time.monotonic() < job.evaluations_read + PRUNE_EVERY:
            return
        job.evaluations_read = time.monotonic()
        if objective.is_finished(job.task.run):
            return
        plan, storage = job.trial.user_attrs[PLAN], self._study.storage
        study = self._study.arm(job.arm)
        for rung, loss, step in pruning.reports(job.task.run, job.config, plan["planned_flops"] or plan["steps"]):
            trial = storage.get_trial(job.trial._trial_id)
            if trial.last_step is not None and rung <= trial.last_step:
                continue
            storage.set_trial_intermediate_value(trial._trial_id, rung, loss)
            if study.pruner.prune(study, storage.get_trial(trial._trial_id)):
                self._study.set(trial, PRUNED_AT, step)
                job.pruned = True
                assert job.worker is not None
                job.worker.signal(signal.SIGTERM)
                return

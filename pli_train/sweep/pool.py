"""Run a list of tasks in parallel, each by its own worker, and restart workers that are killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.run_format import run_folder
from pli_train.sweep.objective import is_finished
from pli_train.sweep.worker_ends import POLL, REQUESTS, STOPPING, Deaths, Interrupted, error_of, stop_all, was_killed
from pli_train.training.signals import StopSignal

if TYPE_CHECKING:
    from pli_train.sweep.worker import Launcher, Task, Worker


@dataclass
class Job:
    """A task with its worker."""

    task: Task
    worker: Worker
    deaths: Deaths


class Pool:
    """Runs tasks.

    Args:
        launcher: starts workers.
        say: called with each line of progress.
    """

    def __init__(self, launcher: Launcher, say: Callable[[str], None] = lambda line: None) -> None:
        self._launcher, self._say = launcher, say
        self._jobs: dict[int, Job] = {}

    def run(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Run the tasks that are not done. Return name → error of those that failed.

        Raises:
            Interrupted: after SIGINT, SIGTERM or SIGHUP.
            PliError: when a log cannot be written, or the disk is full.
        """
        waiting = [task for task in tasks if not is_done(task)]
        errors: dict[str, str] = {}
        with StopSignal(self._say, STOPPING, REQUESTS) as stop:
            try:
                while (waiting or self._jobs) and not stop.asked:
                    for slot in range(self._launcher.slots):
                        if slot in self._jobs:
                            errors |= self._follow(slot)
                        if slot not in self._jobs and waiting:
                            self._start(slot, waiting.pop(0))
                    time.sleep(POLL if self._jobs else 0)
            finally:
                stop_all([job.worker for job in self._jobs.values()], stop)
                self._jobs.clear()
        if stop.asked:
            raise Interrupted("stopped; run the same command to resume")
        return errors

    def _start(self, slot: int, task: Task, deaths: Deaths | None = None) -> None:
        deaths = deaths or Deaths(task.run)
        deaths.start()
        self._jobs[slot] = Job(task, self._launcher.start(task, slot), deaths)

    def _follow(self, slot: int) -> dict[str, str]:
        """Remove a job whose worker has ended, or restart it. Return its error, if it failed."""
        job = self._jobs[slot]
        code = job.worker.poll()
        if code is None:
            return {}
        del self._jobs[slot]
        if is_done(job.task):
            return {}
        error = job.deaths.add(code) if was_killed(code) else error_of(job.task, code)
        if error:
            self._say(f"{job.task.name}: failed: {error}")
            return {job.task.name: error}
        self._start(slot, job.task, job.deaths)
        return {}


def is_done(task: Task) -> bool:
    """Whether the run of a task has a complete checkpoint of the task's last step, or of a later one."""
    if task.until is None:
        return is_finished(task.run)
    return newest(task.run) >= task.until


def newest(run: Path) -> int:
    """Return the step of a run's newest complete checkpoint; -1 if there is none."""
    with suppress(OSError):
        complete = (name.step for name, path in run_folder.checkpoints(run) if run_folder.flaw(path) is None)
        return max(complete, default=-1)
    return -1

"""Start workers as SLURM jobs, through submitit. The study's folder must be on a file system that all nodes share."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, PliError, in_a_line
from pli_train.core.run_format import study_folder
from pli_train.sweep.worker import FoundWorker, Task, Worker, claim, work

if TYPE_CHECKING:
    from submitit import Job


class SlurmLauncher:
    """Starts workers as SLURM jobs.

    Args:
        folder: of the study.
        workers: jobs at a time.
        threads: of OpenMP, for each worker, which are its cores.
        options: of submitit (`timeout_min`, `slurm_partition`, `gpus_per_node`, …); `cluster=local` runs the jobs here.

    Attributes:
        slots: jobs at a time.
        threads: of each worker.

    Raises:
        BadInput: when submitit is not installed, there is no SLURM, or it does not know an option.
    """

    def __init__(self, folder: Path, workers: int, threads: int, options: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise BadInput("--launcher slurm: needs submitit: pip install 'pli[slurm]'") from None
        self.slots, self.threads = workers, threads
        cluster = options.get("cluster", "slurm")
        further = {key: value for key, value in options.items() if key != "cluster"}
        try:
            self._executor = submitit.AutoExecutor(folder=folder / study_folder.SLURM, cluster=str(cluster))
            self._executor.update_parameters(name=folder.name, cpus_per_task=threads, **further)
        except Exception as error:  # submitit raises of many kinds, RuntimeError where there is no SLURM
            raise BadInput(f"--launcher slurm: {in_a_line(error)}") from None

    def start(self, task: Task, slot: int) -> Worker:
        """Submit a job. Raises PliError when SLURM refuses it."""
        log = claim(task)
        if log is None:
            return FoundWorker(task)
        log.close()  # the job locks it when it starts
        try:
            return SlurmWorker(self._executor.submit(work, task, str(Path.cwd())), task)
        except Exception as error:
            raise PliError(f"--launcher slurm: a job was not accepted ({in_a_line(error)})") from None


class SlurmWorker:
    """A SLURM job."""

    def __init__(self, job: Job[int], task: Task) -> None:
        self._job, self._task = job, task

    def poll(self) -> int | None:
        """Return the worker's exit code, or that of a kill where the job has none; None while it waits or runs."""
        if not self._job.done():
            return None
        try:
            return int(self._task.exit_code.read_text())  # the job's own result would have to be unpickled
        except (OSError, ValueError):  # cancelled, timed out, preempted, its node lost
            return -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Cancel the job: SLURM sends SIGTERM, and SIGKILL some time later."""
        if not self._job.done():
            self._job.cancel(check=False)

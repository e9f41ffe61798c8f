"""Start workers as SLURM jobs, through submitit. The study folder must be on a file system that all nodes share."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, PliError, in_a_line
from pli_train.core.run_format import study_folder
from pli_train.sweep.worker import Task, Worker, found, request_stop, work

if TYPE_CHECKING:
    from submitit import Job


class SlurmLauncher:
    """Starts workers as SLURM jobs.

    Args:
        folder: study folder.
        workers: number of parallel jobs.
        threads: OpenMP threads and cores per worker.
        options: options of submitit (`timeout_min`, `slurm_partition`, `gpus_per_node`, …); `cluster=local` runs
            the jobs on this machine.

    Attributes:
        slots: number of parallel jobs.
        threads: OpenMP threads per worker.

    Raises:
        BadInput: when submitit is not installed, SLURM is not available, or an option is unknown.
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
        except Exception as error:  # submitit raises many types; RuntimeError without SLURM
            raise BadInput(f"--launcher slurm: {in_a_line(error)}") from None

    def start(self, task: Task, slot: int) -> Worker:
        """Submit a job. Raises PliError when SLURM refuses it."""
        if (running := found(task)) is not None:
            return running
        try:
            return SlurmWorker(self._executor.submit(work, task, str(Path.cwd())), task)
        except Exception as error:
            raise PliError(f"--launcher slurm: a job was rejected ({in_a_line(error)})") from None


class SlurmWorker:
    """A SLURM job."""

    def __init__(self, job: Job[int], task: Task) -> None:
        self._job, self._task = job, task

    def poll(self) -> int | None:
        """Return the worker's exit code, or -SIGKILL if the job left none; None while it is queued or running."""
        if not self._job.done():
            return None
        try:
            return int(self._task.exit_code.read_text())  # the job's own result would have to be unpickled
        except (OSError, ValueError):  # cancelled, timed out, preempted, its node lost
            return -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Cancel the job: SLURM sends SIGTERM, and SIGKILL later."""
        if not self._job.done():
            request_stop(self._task)
            self._job.cancel(check=False)

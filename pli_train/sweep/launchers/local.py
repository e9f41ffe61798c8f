"""Start workers as local processes, each with a share of the cores or its own GPU."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from pli_train.core.errors import BadInput, counted
from pli_train.sweep.worker import FoundWorker, Task, Worker, claim


def count_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class LocalLauncher:
    """Starts workers on this machine.

    Args:
        workers: number of parallel workers; None for one per GPU, or one per core without a GPU.
        gpus: number of GPUs.
        threads: OpenMP threads per worker; None for its share of the cores.

    Attributes:
        slots: number of parallel workers.
        threads: OpenMP threads per worker.

    Raises:
        BadInput: if there are fewer cores than threads of one worker.
    """

    def __init__(self, workers: int | None = None, gpus: int = 0, threads: int | None = None) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._gpus = gpus
        self.slots = workers or gpus or len(self._cores)
        self._share = max(1, len(self._cores) // self.slots)
        self.threads = threads or self._share
        if self.threads > len(self._cores):
            raise BadInput(f"--threads {threads}: a worker has at most {counted(len(self._cores), 'core')} here")

    def start(self, task: Task, slot: int) -> Worker:
        """Start a worker on the cores, and the GPU, of a slot."""
        log = claim(task)
        if log is None:
            return FoundWorker(task)
        environment = task.environment()
        if self._gpus > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._device(slot)
        with log:  # the worker inherits the file and its lock
            process = subprocess.Popen(
                task.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches only the coordinator, which forwards it
            )
        with suppress(OSError):
            os.sched_setaffinity(process.pid, self._cores_of(slot))
        return LocalWorker(process)

    def _cores_of(self, slot: int) -> list[int]:
        """Return the cores of a slot; slots share cores if there are more slots than cores."""
        first = slot * self._share % len(self._cores)
        return self._cores[first : first + self._share]

    def _device(self, slot: int) -> str:
        """Return the GPU of a slot, among those that this process may use."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else [str(number) for number in range(self._gpus)]
        return devices[slot % len(devices)]


class LocalWorker:
    """A child process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

"""Start workers as tasks of a Ray cluster. The study folder must be on a file system that all nodes share."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pli_train.core.errors import BadInput, in_a_line
from pli_train.sweep.worker import Task, Worker, found, request_stop, work


class RayLauncher:
    """Starts workers as Ray tasks.

    Args:
        workers: number of parallel tasks.
        threads: OpenMP threads and cores per worker.
        options: options of `ray.remote` (`num_gpus`, `resources`, …), and `address` of the cluster (default:
            RAY_ADDRESS, or a new local cluster).

    Attributes:
        slots: number of parallel tasks.
        threads: OpenMP threads per worker.

    Raises:
        BadInput: when Ray is not installed, its cluster cannot be reached, or an option is unknown.
    """

    def __init__(self, workers: int, threads: int, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise BadInput("--launcher ray: needs Ray: pip install 'pli[ray]'") from None
        self.slots, self.threads = workers, threads
        address = options.get("address") or os.environ.get("RAY_ADDRESS")
        _require_reachable(address)
        further = {key: value for key, value in options.items() if key != "address"}
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
            self._task = ray.remote(num_cpus=threads, max_retries=0, **further)(work)
        except Exception as error:  # Ray raises many types
            raise BadInput(f"--launcher ray: {in_a_line(error)}") from None

    def start(self, task: Task, slot: int) -> Worker:
        """Submit a task."""
        if (running := found(task)) is not None:
            return running
        return RayWorker(task, self._task.remote(task, str(Path.cwd())))


def _require_reachable(address: str | None) -> None:
    """Raise BadInput when nothing listens at the address of a cluster, for which Ray would wait several minutes."""
    if (match := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")) is None:
        return  # a local cluster
    try:
        socket.create_connection((match[1], int(match[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--launcher ray: {address} cannot be reached ({in_a_line(error)})") from None


class RayWorker:
    """A Ray task."""

    def __init__(self, task: Task, reference: Any) -> None:
        self._task, self._reference = task, reference

    def poll(self) -> int | None:
        """Return the worker's exit code, or -SIGKILL if the task left none; None while it is queued or running."""
        import ray

        ready, _ = ray.wait([self._reference], timeout=0)
        if not ready:
            return None
        try:
            return int(ray.get(self._reference))
        except Exception:  # cancelled, its node lost, out of memory
            return -signal.SIGKILL

    def signal(self, number: int) -> None:
        """Cancel the task, so that its run writes a checkpoint and stops; SIGKILL ends it at once."""
        import ray

        request_stop(self._task)
        ray.cancel(self._reference, force=number == signal.SIGKILL)

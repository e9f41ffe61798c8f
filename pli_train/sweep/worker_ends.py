"""How workers end: killed, failed, or stopped by a request."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder
from pli_train.sweep.worker import UNKNOWN, FoundWorker, Task

if TYPE_CHECKING:
    from pli_train.sweep.worker import Worker
    from pli_train.training.signals import StopSignal

POLL = 0.1
"""Seconds between two polls of the workers."""
PATIENCE = 300.0
"""Seconds for workers to write a checkpoint after a request to stop; then they are killed."""
DEATHS = 20
"""Number of times a worker may be killed without a new checkpoint before its task fails."""
REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask for a stop."""
STOPPING = "stopping: workers write checkpoints (again: kill them)", "killing workers"
"""Lines printed at the first request to stop and at further ones."""
FULL_DISK = ("no space left", "disk quota exceeded", "the disk has")
RESERVE = 2**20
"""A disk with fewer free bytes counts as full."""


class Interrupted(PliError):
    """The user asked to stop. The workers have written checkpoints."""

    exit_code = 130


def was_killed(code: int) -> bool:
    """Whether a worker ended for a reason outside its run, which can resume. `code` is its exit code."""
    return code < 0 or code == UNKNOWN or code in {128 + number for number in REQUESTS}


@dataclass
class Deaths:
    """Counts how often the worker of a run was killed since the run's last new checkpoint.

    Attributes:
        run: run folder.
        checkpoints: names of the run's checkpoints when its worker was last started.
        count: number of deaths.
    """

    run: Path
    checkpoints: frozenset[str] = frozenset()
    count: int = 0

    def start(self) -> None:
        """Remember the checkpoints when a worker starts."""
        self.checkpoints = self._now()

    def add(self, code: int) -> str:
        """Count a killed worker. Returns an error if it was the last one, else an empty text."""
        self.count = 0 if self._now() != self.checkpoints else self.count + (code != UNKNOWN)
        if self.count < DEATHS:
            return ""
        return f"its worker was killed {DEATHS} times at the same checkpoint (exit code {code}); out of memory?"

    def _now(self) -> frozenset[str]:
        with suppress(OSError):
            return frozenset(path.name for _, path in run_folder.checkpoints(self.run))
        return frozenset()


def error_of(task: Task, code: int) -> str:
    """Return the error of a failed worker: the last line of its log. Raises PliError when the disk is full."""
    error = _last_line(task.log)
    if any(words in error.lower() for words in FULL_DISK) or shutil.disk_usage(task.folder).free < RESERVE:
        raise PliError(f"{task.folder}: disk is full; free space, then run the same command to resume")
    return error or f"its worker ended with exit code {code}"


def stop_all(workers: Iterable[Worker], stop: StopSignal) -> None:
    """Let all workers write a checkpoint and stop; kill them after a second request."""
    until, running = time.monotonic() + PATIENCE, list(workers)
    asked: list[Worker] = []
    while running := [worker for worker in running if worker.poll() is None]:
        if stop.times > 1 or time.monotonic() > until:
            break
        for worker in running:
            if worker not in asked or isinstance(worker, FoundWorker):
                worker.signal(signal.SIGTERM)
                asked.append(worker)
        time.sleep(POLL)
    for worker in running:
        worker.signal(signal.SIGKILL)


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("error: ")

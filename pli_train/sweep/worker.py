"""A worker: one `pli-train run` or `resume` at a time in a run folder, and the lock that says so.

A worker holds a lock on its log from before it starts until it is gone. The operating system releases the lock when
the worker dies, so whoever gets the lock knows that no other process works on the trial, start-up included.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep.objective import is_finished

UNKNOWN = 256
"""Exit code of a worker that another process started."""


@dataclass(frozen=True)
class Task:
    """What a worker does.

    Attributes:
        folder: of the study.
        name: of the run.
        threads: of OpenMP. The result depends on it.
    """

    folder: Path
    name: str
    threads: int

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / study_folder.RUNS / self.name

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / study_folder.CONFIGS / f"{self.name}.toml"

    @property
    def log(self) -> Path:
        """Where the worker's output goes."""
        return self.folder / study_folder.LOGS / f"{self.name}.log"

    @property
    def exit_code(self) -> Path:
        """Where a worker on another machine writes its exit code."""
        return self.log.with_suffix(".exit")

    def command(self) -> list[str]:
        """What begins the run, or resumes it."""
        begun = (self.run / run_folder.RUN).is_file()
        words = ["resume", str(self.run)] if begun else ["run", str(self.config), "--out", str(self.run)]
        return [sys.executable, "-m", "pli_train", *words, "--quiet"]

    def environment(self) -> dict[str, str]:
        """The environment of the worker."""
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads)}


class Worker(Protocol):
    """A worker that was started."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""

    def signal(self, number: int) -> None:
        """Send a signal, if it can be reached."""


class Launcher(Protocol):
    """Starts workers, at most `slots` at a time, with so many OpenMP `threads` each."""

    slots: int
    threads: int

    def start(self, task: Task, slot: int) -> Worker:
        """Start a worker, or find the one that works on this task already."""


def claim(task: Task) -> IO[bytes] | None:
    """Open a task's log and lock it; None while a worker holds it. The worker inherits the open file.

    Raises:
        PliError: when the log cannot be opened.
    """
    try:
        file = task.log.open("ab")
    except OSError as error:
        raise PliError(f"{task.log}: cannot be opened ({str(error.strerror).lower()})") from None
    if _locks(file) and not is_training(task.run):
        return file
    file.close()
    return None


def work(task: Task, folder: str) -> int:
    """Do a task in this process's place on another machine, unless another worker does it already.

    Args:
        task: as the coordinator has it.
        folder: the coordinator's working folder, from which paths in configs count.

    Returns:
        The exit code of `pli-train`; UNKNOWN where another worker holds the task.
    """
    os.chdir(folder)
    if (log := claim(task)) is None:
        return UNKNOWN
    with log:
        task.exit_code.unlink(missing_ok=True)
        code = 0 if is_finished(task.run) else _train(task, log)
        task.exit_code.write_text(str(code))
    return code


def _train(task: Task, log: IO[bytes]) -> int:
    process = subprocess.Popen(task.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=task.environment())
    try:
        while (code := process.poll()) is None:
            time.sleep(0.1)  # Ray cancels a task by KeyboardInterrupt, which does not interrupt a wait
    except BaseException:
        process.terminate()
        return process.wait()
    return code


def is_training(run: Path) -> bool:
    """Whether a process trains in a run folder, one that somebody started by hand included."""
    try:
        with (run / run_folder.LOCK).open("rb") as file:
            return not _locks(file)
    except OSError:
        return False


def _locks(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


class FoundWorker:
    """A worker that an earlier coordinator, another machine or the user started."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def poll(self) -> int | None:
        """Return UNKNOWN once the worker is gone."""
        if (file := claim(self._task)) is None:
            return None
        file.close()
        return UNKNOWN

    def signal(self, number: int) -> None:
        """Send a signal to the process that trains in the run folder, once it does."""
        if is_training(self._task.run):
            with suppress(OSError, ValueError):
                os.kill(int((self._task.run / run_folder.LOCK).read_text()), number)

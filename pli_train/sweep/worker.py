"""A worker: one `pli-train run` or `resume` in a run folder, guarded by a lock.

A worker holds a lock on its log file from before its start to its end. The operating system releases the lock when the
worker dies, so the process that gets the lock knows that no other process runs the trial.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pli_train.core.errors import PliError
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep.objective import is_finished

UNKNOWN = 256
"""Exit code of a worker that another process started, which is unknown."""


@dataclass(frozen=True)
class Task:
    """The task of a worker.

    Attributes:
        folder: study folder.
        name: name of the run.
        threads: number of OpenMP threads. The result depends on it.
        until: step at which the worker stops; None to train to the end.
    """

    folder: Path
    name: str
    threads: int
    until: int | None = None

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
        """The log file with the output of the worker."""
        return self.folder / study_folder.LOGS / f"{self.name}.log"

    @property
    def exit_code(self) -> Path:
        """The file to which a worker on another machine writes its exit code."""
        return self.log.with_suffix(".exit")

    @property
    def stop(self) -> Path:
        """The file that asks a worker on another machine to stop its run."""
        return self.log.with_suffix(".stop")

    def command(self) -> list[str]:
        """Return the command that starts or resumes the run."""
        begun = (self.run / run_folder.RUN).is_file()
        words = ["resume", str(self.run)] if begun else ["run", str(self.config), "--out", str(self.run)]
        words += [] if self.until is None else ["--until", str(self.until)]
        return [sys.executable, "-m", "pli_train", *words, "--quiet"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the worker."""
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads)}


class Worker(Protocol):
    """A worker that was started."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""

    def signal(self, number: int) -> None:
        """Send a signal, if the worker can be reached."""


class Launcher(Protocol):
    """Starts workers: at most `slots` in parallel, each with `threads` OpenMP threads."""

    slots: int
    threads: int

    def start(self, task: Task, slot: int) -> Worker:
        """Start a worker, or return the one that already runs this task."""


def found(task: Task) -> FoundWorker | None:
    """Return the worker that already runs a task; None if there is none, and the task may be submitted.

    An old request to stop it is removed.
    """
    if (log := claim(task)) is None:
        return FoundWorker(task)
    log.close()  # the worker locks it when it starts
    task.stop.unlink(missing_ok=True)
    return None


def request_stop(task: Task) -> None:
    """Ask the worker of a task on another machine to stop its run, by a file: cancellations can be lost."""
    with suppress(OSError):
        task.stop.touch()


def claim(task: Task) -> IO[bytes] | None:
    """Open and lock the log of a task; None while a worker holds the lock. The worker inherits the open file.

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
    """Run a task on another machine, unless a worker already runs it.

    Args:
        task: task to run.
        folder: working directory of the coordinator; paths in configs are relative to it.

    Returns:
        The exit code of `pli-train`; UNKNOWN if another worker runs the task.
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
    process = None
    try:
        with _uninterrupted():
            process = subprocess.Popen(
                task.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=task.environment()
            )
        while (code := process.poll()) is None:
            if task.stop.exists():
                process.terminate()
                return process.wait()
            time.sleep(0.1)  # Ray cancels a task by KeyboardInterrupt, which does not interrupt a wait
    except BaseException:
        if process is None:
            raise
        process.terminate()
        while True:
            with suppress(KeyboardInterrupt):  # the task is cancelled again while the run writes its checkpoint
                return process.wait()
    return code


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Postpone a KeyboardInterrupt to the end of the block: within `Popen`, it would leave a process to nobody."""
    interrupted = False

    def postpone(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    handler = signal.signal(signal.SIGINT, postpone)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if interrupted:
        raise KeyboardInterrupt


def is_training(run: Path) -> bool:
    """Whether any process trains in a run folder, also one that the user started."""
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
        """Return UNKNOWN after the worker has ended, None before."""
        if (file := claim(self._task)) is None:
            return None
        file.close()
        return UNKNOWN

    def signal(self, number: int) -> None:
        """Send a signal to the process that trains in the run folder, if there is one on this machine."""
        lock = self._task.run / run_folder.LOCK
        with suppress(OSError, ValueError):
            if is_training(self._task.run) and _has_open(pid := int(lock.read_text()), lock):
                os.kill(pid, number)


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process of this machine has a file open. On another machine, its id is that of another process."""
    return any(file.exists() and file.samefile(path) for file in Path(f"/proc/{pid}/fd").iterdir())

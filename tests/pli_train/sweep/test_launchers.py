"""Local workers: what they are given, who holds a trial, and who ended it."""

import os
import signal
import sys
import time

import pytest

from pli_train.core.run_format import run_folder
from pli_train.sweep.launchers import worker
from pli_train.sweep.launchers.local import LocalLauncher, count_gpus
from pli_train.sweep.launchers.worker import UNKNOWN, FoundWorker, Task, claim

REPORT = "import os; print(os.environ['OMP_NUM_THREADS'], sorted(os.sched_getaffinity(0)), os.getsid(0) == os.getpid())"
WAIT = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def task_of(tmp_path, monkeypatch):
    """A task that runs a line of Python in place of `pli-train`."""
    (tmp_path / "logs").mkdir()

    def make(code, name="growth-0000", threads=1):
        monkeypatch.setattr(
            Task, "command", lambda self: [sys.executable, "-c", f"import time; time.sleep(0.2)\n{code}"]
        )
        return Task(tmp_path, name, threads)

    return make


def wait(started):
    while (code := started.poll()) is None:
        time.sleep(0.01)
    return code


def up(task):
    while b"up" not in task.log.read_bytes():
        time.sleep(0.01)


def test_a_worker_has_its_threads_its_cores_and_a_session_of_its_own(task_of):
    cores = sorted(os.sched_getaffinity(0))
    launcher, task = LocalLauncher(workers=len(cores)), task_of(REPORT, threads=3)
    assert launcher.threads == 1
    assert wait(launcher.start(task, len(cores) - 1)) == 0
    assert task.log.read_text() == f"3 [{cores[-1]}] True\n"


def test_more_workers_than_cores_share_them(task_of):
    cores = sorted(os.sched_getaffinity(0))
    launcher, task = LocalLauncher(workers=len(cores) + 1), task_of(REPORT)
    assert wait(launcher.start(task, len(cores))) == 0
    assert task.log.read_text() == f"1 [{cores[0]}] True\n"


def test_one_worker_has_all_cores(task_of):
    cores = sorted(os.sched_getaffinity(0))
    launcher, task = LocalLauncher(workers=1), task_of(REPORT, threads=len(cores))
    assert launcher.threads == len(cores)
    assert wait(launcher.start(task, 0)) == 0
    assert task.log.read_text() == f"{len(cores)} {cores} True\n"


def test_each_worker_has_a_gpu_of_its_own(task_of, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert count_gpus() == 2
    launcher, task = LocalLauncher(gpus=count_gpus()), task_of("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    assert launcher.slots == 2
    assert wait(launcher.start(task, 1)) == 0
    assert task.log.read_text() == "7\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert count_gpus() == 0


def test_a_task_that_a_worker_holds_is_not_started_again(task_of):
    """Whether the worker is this coordinator's or one that died: the lock is the worker's alone."""
    launcher, task = LocalLauncher(workers=1), task_of(WAIT)
    first = launcher.start(task, 0)
    up(task)
    second = launcher.start(task, 0)
    assert isinstance(second, FoundWorker) and second.poll() is None
    first.signal(signal.SIGKILL)
    assert wait(first) == -signal.SIGKILL
    assert second.poll() == UNKNOWN
    assert task.log.read_text() == "up\n"


def test_a_run_that_somebody_trains_by_hand_is_not_started(task_of):
    from pli_train.checkpointing.lock import Lock

    task = task_of(WAIT)
    task.run.mkdir(parents=True)
    lock = Lock(task.run)
    assert claim(task) is None
    lock.release()
    claim(task).close()


def test_the_process_that_trains_gets_the_signals(task_of):
    launcher, task = LocalLauncher(workers=1), task_of(
        "import os\nfrom pathlib import Path\nfrom pli_train.checkpointing.lock import Lock\n"
        f"lock = Lock(Path({str(task_of(WAIT).run)!r}))\n{WAIT}"
    )  # fmt: skip
    task.run.mkdir(parents=True)
    first = launcher.start(task, 0)
    found = FoundWorker(task)
    found.signal(signal.SIGTERM)  # nobody trains yet: nobody is hit
    up(task)
    found.signal(signal.SIGTERM)
    assert wait(first) == -signal.SIGTERM


def test_a_worker_begins_a_run_and_resumes_one(tmp_path):
    task = Task(tmp_path, "growth-0000", 1)
    run, config = str(tmp_path / "runs/growth-0000"), str(tmp_path / "configs/growth-0000.toml")
    assert task.command()[1:] == ["-m", "pli_train.cli", "run", config, "--out", run, "--quiet"]
    task.run.mkdir(parents=True)
    (task.run / run_folder.RUN).write_text("{}")
    assert task.command()[1:] == ["-m", "pli_train.cli", "resume", run, "--quiet"]
    assert worker.is_training(task.run) is False

"""Local workers: what they are given, who holds a trial, and who ended it."""

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from pli_train.commands import sweep
from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.sweep import worker
from pli_train.sweep.launchers.local import LocalLauncher, count_gpus
from pli_train.sweep.worker import UNKNOWN, FoundWorker, Task, claim
from pli_train.training import launch
from tests.run_files import content

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


def eventually(condition):
    """Wait until a condition holds, at most some minutes."""
    last = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < last, "in vain"
        time.sleep(0.01)


def wait(started):
    eventually(lambda: started.poll() is not None)
    return started.poll()


def up(task):
    eventually(lambda: b"up" in task.log.read_bytes())


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


def test_a_process_that_has_the_id_of_a_worker_on_another_machine_gets_no_signal(task_of):
    from pli_train.checkpointing.lock import Lock

    task = task_of(WAIT)
    task.run.mkdir(parents=True)
    lock = Lock(task.run)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        (task.run / run_folder.LOCK).write_text(f"{bystander.pid}\n")
        FoundWorker(task).signal(signal.SIGKILL)
        time.sleep(0.1)
        assert bystander.poll() is None
        bystander.kill()
    lock.release()


def test_a_worker_begins_a_run_and_resumes_one(tmp_path):
    task = Task(tmp_path, "growth-0000", 1)
    run, config = str(tmp_path / "runs/growth-0000"), str(tmp_path / "configs/growth-0000.toml")
    assert task.command()[1:] == ["-m", "pli_train", "run", config, "--out", run, "--quiet"]
    task.run.mkdir(parents=True)
    (task.run / run_folder.RUN).write_text("{}")
    assert task.command()[1:] == ["-m", "pli_train", "resume", run, "--quiet"]
    assert worker.is_training(task.run) is False


# --- other machines -------------------------------------------------------------------------------------------------


@pytest.fixture
def trial(mini, tmp_path):
    """A task whose run takes a second or two."""
    for name in ("logs", "configs", "runs"):
        (tmp_path / name).mkdir()
    task = Task(tmp_path, "growth-0000", 1)
    task.config.write_text(Path(mini).read_text())
    return task


def expected(task, folder):
    launch.begin(loading.load(str(task.config)), folder / "expected").run()
    return content(folder / "expected")


@pytest.mark.slow
def test_a_slurm_job_is_the_run_that_a_process_is(trial, tmp_path):
    pytest.importorskip("submitit")
    from pli_train.sweep.launchers.slurm import SlurmLauncher

    launcher = SlurmLauncher(tmp_path, 1, 1, {"cluster": "local", "timeout_min": 5})
    assert wait(launcher.start(trial, 0)) == 0, trial.log.read_text()
    assert content(trial.run) == expected(trial, tmp_path)
    assert wait(launcher.start(trial, 0)) == 0, "a second job of a finished trial ends at once"


@pytest.mark.slow
def test_a_slurm_job_that_is_cancelled_has_not_succeeded(trial, tmp_path):
    pytest.importorskip("submitit")
    from pli_train.sweep.launchers.slurm import SlurmLauncher

    trial.config.write_text(trial.config.read_text().replace("steps = 12", "steps = 100000"))
    launcher = SlurmLauncher(tmp_path, 1, 1, {"cluster": "local", "timeout_min": 1})
    first = launcher.start(trial, 0)
    eventually(lambda: not claim_is_free(trial))
    assert isinstance(launcher.start(trial, 0), FoundWorker)
    first.signal(signal.SIGTERM)
    assert wait(first) != 0
    eventually(lambda: claim_is_free(trial))


def test_an_interruption_while_a_worker_starts_ends_its_process(task_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started, start = [], subprocess.Popen

    def interrupted(*arguments, **options):
        started.append(start(*arguments, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    assert worker.work(task_of(WAIT), str(tmp_path)) == -signal.SIGTERM == started[0].poll()


def claim_is_free(task):
    if (file := claim(task)) is None:
        return False
    file.close()
    return True


@pytest.mark.slow
def test_a_ray_task_is_the_run_that_a_process_is(trial, tmp_path, monkeypatch):
    """Ray can lose a cancellation: here it does."""
    ray = pytest.importorskip("ray")
    from pli_train.sweep.launchers.ray import RayLauncher

    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: tests that run beside it would take all cores
    launcher = RayLauncher(1, 1, {"address": "local"})
    try:
        assert wait(launcher.start(trial, 0)) == 0, trial.log.read_text()
        assert content(trial.run) == expected(trial, tmp_path)
        stopped = Task(tmp_path, "growth-0001", 1)
        stopped.config.write_text(trial.config.read_text().replace("steps = 12", "steps = 100000"))
        second = launcher.start(stopped, 0)
        eventually(lambda: stopped.run.is_dir() and run_folder.checkpoints(stopped.run))  # until then, nothing is saved
        with monkeypatch.context() as patch:
            patch.setattr(ray, "cancel", lambda *arguments, **options: None)
            second.signal(signal.SIGTERM)
        assert wait(second) in (130, -signal.SIGKILL)
        eventually(lambda: claim_is_free(stopped))
        assert "stopped at step" in stopped.log.read_text()
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    ("kind", "module", "message"),
    [("slurm", "submitit", r"needs submitit: pip install 'pli\[slurm\]'"), ("ray", "ray", r"needs Ray: pip install")],
)
def test_a_launcher_whose_extra_is_missing_is_one_clear_line(kind, module, message, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadInput, match=f"--launcher {kind}: {message}"):
        sweep.launcher_of(kind, 2, None, [], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slurm", None, None, []), "--launcher slurm: needs --workers N, the number of parallel runs"),
        (("local", 1, None, ["a=1"]), "--launcher-option a=1: applies only to --launcher slurm and ray"),
        (("ray", 1, None, ["a"]), "--launcher-option a: not KEY=VALUE"),
    ],
)
def test_launcher_options_that_do_not_fit_are_one_clear_line(arguments, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        sweep.launcher_of(*arguments, tmp_path)


def test_a_ray_cluster_out_of_reach_is_one_clear_line_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(BadInput, match=rf"--launcher ray: {address} cannot be reached \(.*refused"):
            sweep.launcher_of("ray", 1, None, [f"address={address}"], tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:1 cannot be reached"):
        sweep.launcher_of("ray", 1, None, [], tmp_path)


def test_no_slurm_on_this_machine_is_one_clear_line(tmp_path):
    pytest.importorskip("submitit")
    if shutil.which("srun"):
        pytest.skip("there is one")
    with pytest.raises(BadInput, match="--launcher slurm: "):
        sweep.launcher_of("slurm", 1, None, [], tmp_path)

"""What a study costs beside its runs: throughput of two workers, overhead of a trial, resuming 10 000 trials.

    python tests/benchmarks/bench_sweep.py [--rounds 3] [--runs 4] [--steps 60] [--trials 10000] [--only …] [--postgres]

- throughput: trials an hour with two workers ÷ with one, on two cores; it should be 1.6 or more. Both give a trial one
  thread, so that they do the same work; one worker with two threads is measured too. They take turns in an order that
  changes; each is a study of so many runs of tiny-gpt2. Start-up of coordinator and workers counts. It needs a
  quiet machine, and two cores that are not two threads of one core.
- overhead: seconds of the coordinator's processor time for each trial of a study whose runs are ready made; it should
  be less than 1.
- resume: seconds until a study with so many finished trials is open again and says what came of it, start of the
  process included; it should be less than 5.

With --postgres, overhead and resume are measured for a study in a database too, on a server that this program starts
(Debian: apt-get install postgresql).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from unittest import mock

from machine import machine
from optuna.trial import TrialState

from pli_train.commands import sweep
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep import arms, space_reading
from pli_train.sweep.changes import base_config
from pli_train.sweep.study import PLAN, Settings, Study

sys.path.append(str(Path(__file__).parents[2]))
from tests.postgres import Server

SPACE = """
base = "tiny-gpt2"
[space]
"optim.lr" = { low = 5e-4, high = 8e-3, log = true }
"growth.initializer" = ["random", "clone", "identity"]
[space.schedule]
events = [1, 2, 5]
first = { low = 0.02, high = 0.4 }
last = 0.6
"""


def command(*words: object) -> float:
    """Seconds of a `pli-train`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pli_train", *map(str, words), "--quiet"], check=True)
    return time.perf_counter() - began


SETUPS = {(1, 1): "1 worker", (2, 1): "2 workers", (1, 2): "1 worker with 2 threads"}
"""Workers and threads of each → what is compared."""


def throughput(folder: Path, rounds: int, runs: int, steps: int) -> None:
    """Print trials an hour with one worker and with two."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    print(f"cores {sorted(os.sched_getaffinity(0))}, of which threads of one core: {_siblings()}")
    grid = ["sweep", "tiny-gpt2", "--seeds", runs, "--no-baseline", "--objective", "tokens"]
    fixed = ["--set", f"train.steps={steps}", "--set", "train.eval_full=0"]
    seconds: dict[tuple[int, int], list[float]] = {setup: [] for setup in SETUPS}
    for number in range(rounds):
        for setup in [*SETUPS][number % 3 :] + [*SETUPS][: number % 3]:
            workers, threads = setup
            out = folder / "throughput"
            seconds[setup].append(command(*grid, *fixed, "--workers", workers, "--threads", threads, "-o", out))
            shutil.rmtree(out)
    for setup, found in seconds.items():
        rates = sorted(3600 * runs / each for each in found)
        print(f"{SETUPS[setup]}: {statistics.median(rates):.0f} ({rates[0]:.0f}–{rates[-1]:.0f}) trials an hour")
    for alone in (1, 1), (1, 2):
        ratios = sorted(one / two for one, two in zip(seconds[alone], seconds[2, 1], strict=True))
        median, spread = statistics.median(ratios), f"{ratios[0]:.2f}–{ratios[-1]:.2f}"
        print(f"2 workers ÷ {SETUPS[alone]}: {median:.2f} ({spread}, {rounds} rounds)")


def _siblings() -> str:
    """Logical cores that share a physical one with another; they run two processes slower than two cores do."""
    found = {
        (Path("/sys/devices/system/cpu") / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
        for core in os.sched_getaffinity(0)
    }
    return ", ".join(sorted(each for each in found if not each.isdigit())) or "none"


class Ready:
    """Puts a finished run in place of training one."""

    slots, threads = 2, 1

    def __init__(self, run: Path) -> None:
        self._run = run

    def start(self, task, slot):
        """Copy the run, with as many steps as the config has."""
        task.run.symlink_to(self._run)
        return self

    def poll(self) -> int:
        """It has ended."""
        return 0


def overhead(folder: Path, url: str | None, trials: int = 40) -> None:
    """Print the coordinator's processor time for a trial, model planning included."""
    kind = "PostgreSQL" if url else "journal"
    if not (folder / "ready").exists():
        command("run", "tiny-gpt2", "--set", "train.steps=2", "--set", "growth.schedule=''", "--out", folder / "ready")
    (folder / "mine.toml").write_text(SPACE)
    settings = Settings(space_reading.load(str(folder / "mine.toml")))
    launcher, marks = Ready(folder / "ready"), []
    out = folder / f"overhead-{kind}"
    sweep.sweep(settings, out, trials // 2, launcher, storage=url, say=lambda _: marks.append(time.process_time()))
    ended = marks[-trials - 2 : -2]  # the lines after them say what came of the study
    print(f"processor time of a trial, {kind}: {(ended[-1] - ended[0]) / (trials - 1):.3f} s, mean of {trials}")


def resume(folder: Path, trials: int, url: str | None) -> None:
    """Print how long it takes to open a study with so many finished trials, and to choose the next trial."""
    (folder / "many.toml").write_text(SPACE)
    settings, out = Settings(space_reading.load(str(folder / "many.toml")), sampler="random"), folder / "many"
    base = base_config(settings.space)
    study = Study.open(out, settings, base.model_dump(mode="json"))
    with mock.patch.object(os, "fsync"):
        for arm in arms.arms(settings, base, trials // 2):
            for number in range(arm.target):
                trial = study.ask(arm.name)
                chosen = arm.propose(study, trial).chosen
                name = study_folder.trial_name(arm.name, number)
                study.set(trial, PLAN, {"run": name, "seed": 0, "steps": 9, "threads": 1, "changes": dict(chosen)})
                result = {"loss": 4.0, "flops": 10**12, "tokens": 10**6, "seconds": 9.0, "value": 4.0 + number / trials}
                study.finish(arm.name, trial, TrialState.COMPLETE, result)
    study.write_table(now=True)
    study.close()
    size = (out / study_folder.JOURNAL).stat().st_size / 1e6
    words = ["sweep", folder / "many.toml", "--sampler", "random", "--trials", trials // 2]
    _print_resumed(f"{trials} trials, journal of {size:.0f} MB", [*words, "-o", out])
    began = time.perf_counter()
    study_folder.trials(out)
    print(f"their table read: {time.perf_counter() - began:.2f} s ({run_folder.LARGEST_TEXT / 2**20:.0f} MB at most)")
    if url:
        shared = Study.open(folder / "shared", settings, base.model_dump(mode="json"), url=url)
        for arm in study.arms:
            shared.arm(arm).add_trials(study.trials(arm))
        shared.close()
        _print_resumed(f"{trials} trials, PostgreSQL", [*words, "--storage", url, "-o", folder / "shared"])


def _print_resumed(what: str, words: list[object]) -> None:
    found = sorted(command(*words) for _ in range(3))
    print(f"{what}: resumed in {found[1]:.1f} s ({found[0]:.1f}–{found[2]:.1f})")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", default=["throughput", "overhead", "resume"])
    parser.add_argument("--postgres", action="store_true", help="measure a study in a database too")
    asked = parser.parse_args()
    print(machine())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(closing(Server())) if asked.postgres else None
        if server:
            server.start()
        if "resume" in asked.only:
            resume(folder, asked.trials, server and server.url())
        if "overhead" in asked.only:
            overhead(folder, None)
            if server:
                overhead(folder, server.url())
        if "throughput" in asked.only:
            throughput(folder, asked.rounds, asked.runs, asked.steps)


if __name__ == "__main__":
    main()

"""What a study costs beside its runs: throughput of two workers, overhead of a trial, resuming 10 000 trials.

    python tests/benchmarks/bench_sweep.py [--rounds 3] [--runs 4] [--steps 60] [--trials 10000] [--only …]

- throughput: trials an hour with two workers ÷ with one, on two cores; it should be 1.6 or more. The two take turns;
  each is a study of so many runs of the default preset. Start-up of the workers counts. It needs a quiet machine.
- overhead: seconds of the coordinator's processor time for each trial of a study whose runs are ready made; it should
  be less than 1.
- resume: seconds until a study with so many finished trials is open again and says what came of it, start of the
  process included; it should be less than 5.
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
from pathlib import Path
from unittest import mock

from machine import machine
from optuna.trial import TrialState

from pli_train.commands import sweep
from pli_train.core.run_format import run_folder, study_folder
from pli_train.sweep import arms, space_reading
from pli_train.sweep.changes import base_config
from pli_train.sweep.study import PLAN, Settings, Study

SPACE = """
base = "tiny"
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


def throughput(folder: Path, rounds: int, runs: int, steps: int) -> None:
    """Print trials an hour with one worker and with two."""
    grid = ["sweep", "tiny", "--seeds", runs, "--no-baseline"]
    fixed = ["--set", f"train.steps={steps}", "--set", "train.eval_full=0", "--objective", "tokens"]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for workers in (1, 2) if number % 2 else (2, 1):
            out = folder / f"throughput-{workers}-{number}"
            seconds[workers].append(command(*grid, *fixed, "--workers", workers, "-o", out))
            shutil.rmtree(out)
    for workers, found in seconds.items():
        print(f"{workers} at a time: {3600 * runs / statistics.median(found):.0f} trials an hour")
    ratios = sorted(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    print(f"2 ÷ 1: {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")


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


def overhead(folder: Path, trials: int = 40) -> None:
    """Print the coordinator's processor time for a trial, model planning included."""
    command("run", "tiny", "--set", "train.steps=2", "--set", "growth.schedule=''", "--out", folder / "ready")
    (folder / "mine.toml").write_text(SPACE)
    settings = Settings(space_reading.load(str(folder / "mine.toml")))
    launcher, marks = Ready(folder / "ready"), []
    sweep.sweep(settings, folder / "overhead", trials // 2, launcher, say=lambda _: marks.append(time.process_time()))
    ended = marks[-trials - 2 : -2]  # the lines after them say what came of the study
    print(f"processor time of a trial: {(ended[-1] - ended[0]) / (trials - 1):.3f} s, mean of {trials}")


def resume(folder: Path, trials: int) -> None:
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
                study.tell(arm.name, trial, TrialState.COMPLETE, result)
    study.write_table(now=True)
    study.close()
    words = ["sweep", folder / "many.toml", "--sampler", "random", "--trials", trials // 2, "-o", out]
    found = sorted(command(*words) for _ in range(3))
    size = (out / study_folder.JOURNAL).stat().st_size / 1e6
    print(f"{trials} trials ({size:.0f} MB journal) resumed: {found[1]:.1f} s ({found[0]:.1f}–{found[2]:.1f})")
    began = time.perf_counter()
    study_folder.trials(out)
    print(f"their table read: {time.perf_counter() - began:.2f} s ({run_folder.LARGEST_TEXT / 2**20:.0f} MB at most)")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", default=["throughput", "overhead", "resume"])
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "resume" in asked.only:
            resume(folder, asked.trials)
        if "overhead" in asked.only:
            overhead(folder)
        if "throughput" in asked.only:
            throughput(folder, asked.rounds, asked.runs, asked.steps)


if __name__ == "__main__":
    main()

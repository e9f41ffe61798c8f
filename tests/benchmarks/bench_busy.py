"""How fast training is on a busy machine: tokens per second beside two programs that use two cores all the time.

    python tests/benchmarks/bench_busy.py [--rounds 15] [--seconds 3] [--cores 2] [--neighbors 2]

Two processes train tiny-gpt2 at its full depth. They differ in how OpenMP's threads wait: `before` is the
runtime's default (they spin), `now` is the setting of this project's commands (they spin briefly; see
`pli_train.core.openmp`). In each round both take turns, first alone, then beside neighbors, which are Python processes
in an endless loop; a process that does not have its turn sleeps. All processes run on the same cores.

The output has medians with minimum and maximum over rounds, and two ratios, each of pairs of the same round:

- busy ÷ quiet: with as many neighbors as cores a fair share is 0.5; `now` should be 0.4 or more;
- now ÷ before, quiet: the cost if no other program uses the cores; it should be 0.98 or more.

Each line shows the share of processor time that other programs used. If it is more than a few percent, the ratios mean
little.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
from machine import machine

from pli_train.core import openmp

FULL_DEPTH = ["growth.schedule=''", "model.initial_layers=6", "train.steps=100000", "checkpoint.every=100000"]
SPIN = "while True: pass"
LOG_EVERY = 10
"""Steps between logs, as by default in a run."""
WARM = 2.0
"""Seconds of training before the measurement."""


@dataclass
class Found:
    """Measurements under one condition.

    Attributes:
        speeds: tokens per second of each round.
        others: share of the cores' time used by other programs than the neighbors, of each round.
    """

    speeds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        speeds = f"{statistics.median(self.speeds):>7.0f} ({min(self.speeds):.0f}–{max(self.speeds):.0f})"
        return f"{speeds} tokens/s; other programs took {statistics.median(self.others):.0%} of the cores"


def train(waiting: str, orders: Connection) -> None:
    """Train for the requested numbers of seconds, and answer with tokens per second.

    Args:
        waiting: how threads wait: `before`, `now`, or an environment variable `NAME=VALUE`.
        orders: receives seconds; 0 ends the process.
    """
    if waiting == "now":
        openmp.wait_briefly()
    elif waiting != "before":
        os.environ.update([waiting.split("=", 1)])
    from pli_train.config import loading
    from pli_train.training import launch

    settings = loading.load("tiny-gpt2", FULL_DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        training = launch.begin(settings, Path(folder) / "run")
        training._call("on_train_begin", training.plan.total_steps)
        orders.send("ready")
        while seconds := orders.recv():
            began, tokens = time.perf_counter(), training.state.progress.tokens
            while time.perf_counter() < began + seconds:
                training._update()
                if training.state.progress.step % LOG_EVERY == 0:
                    training._write_log()
            orders.send((training.state.progress.tokens - tokens) / (time.perf_counter() - began))
        training._call("on_train_end")
        training._batches.close()


@contextlib.contextmanager
def neighbors(number: int) -> Iterator[list[int]]:
    """Start `number` processes that use a core each. Yield their process ids."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", SPIN]) for _ in range(number)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def busy_seconds(cores: set[int]) -> float:
    """Return the busy core-seconds of these cores since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return sum(sum(times[core]) - times[core].idle - times[core].iowait for core in cores)


def seconds_of(processes: list[int]) -> float:
    """Return the core-seconds used by these processes."""
    return sum(sum(psutil.Process(each).cpu_times()[:2]) for each in processes)


def measured(orders: Connection, trainer: int, seconds: float, cores: set[int], spinning: int, into: Found) -> None:
    """Measure one turn: tokens per second, and the share of other programs."""
    with neighbors(spinning) as pids:
        watched = [trainer, *pids]
        began, others = time.perf_counter(), busy_seconds(cores) - seconds_of(watched)
        orders.send(seconds)
        into.speeds.append(orders.recv())
        took = busy_seconds(cores) - seconds_of(watched) - others
        into.others.append(max(took, 0.0) / (time.perf_counter() - began) / len(cores))


def started(waiting: str) -> tuple[Connection, BaseProcess]:
    """Start a process that trains, and warm it up. Return its connection and the process."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=train, args=(waiting, its), daemon=True)
    process.start()
    ours.recv()
    ours.send(WARM)
    ours.recv()
    return ours, process


def ratio(above: Found, below: Found) -> str:
    """Return the ratio of two speeds, round by round: median, minimum, maximum."""
    found = [one / other for one, other in zip(above.speeds, below.speeds, strict=True)]
    return f"{statistics.median(found):.3f} ({min(found):.3f}–{max(found):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each turn; a round has four turns")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--neighbors", type=int, default=2)
    parser.add_argument("--instead", metavar="NAME=VALUE", help="in place of `now`, for example GOMP_SPINCOUNT=1000")
    wanted = parser.parse_args()
    if already_set := [name for name in openmp.SETTINGS if name in os.environ]:
        raise SystemExit(f"unset {' and '.join(already_set)}: this benchmark compares how threads wait")
    cores = set(sorted(os.sched_getaffinity(0))[: wanted.cores])
    os.sched_setaffinity(0, cores)
    found = {(name, spinning): Found() for spinning in (0, wanted.neighbors) for name in ("before", "now")}
    trainers = {"before": started("before"), "now": started(wanted.instead or "now")}
    for number in range(wanted.rounds):
        turns = list(found)
        for name, spinning in turns if number % 2 else [*reversed(turns)]:
            orders, process = trainers[name]
            measured(orders, process.pid or 0, wanted.seconds, cores, spinning, found[name, spinning])
    for orders, process in trainers.values():
        orders.send(0)
        process.join()
    print(f"{machine()}, {wanted.rounds} rounds")
    for (name, spinning), what in found.items():
        print(f"  {name:<7} {f'beside {spinning} busy processes' if spinning else 'alone':<24} {what}")
    for name in ("before", "now"):
        print(f"busy ÷ quiet, {name}: {ratio(found[name, wanted.neighbors], found[name, 0])}")
    print(f"now ÷ before, quiet: {ratio(found['now', 0], found['before', 0])}")


if __name__ == "__main__":
    main()

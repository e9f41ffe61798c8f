"""How fast training is on a busy machine: tokens per second beside two programs that use two cores all the time.

    python tests/benchmarks/bench_busy.py [--rounds 15] [--seconds 3] [--cores 2] [--neighbors 2]

Two processes train the default preset at its full depth. They differ in how OpenMP's threads wait: `before` as the
runtime comes (they spin), `now` as our commands ask for (they spin briefly; `pli_train/openmp.py`). In each round both
take turns, first alone, then beside the neighbors, which are Python processes that count; whoever does not have its
turn sleeps. All processes are confined to the same cores.

Prints medians with the lowest and the highest of all rounds, and two ratios, each of pairs of the same round:

- busy ÷ quiet: with as many neighbors as cores a fair share is 0.5; it should be 0.4 or more now;
- now ÷ before, quiet: what this costs where nobody else wants the cores; it should be 0.98 or more.

Quiet is as quiet as the machine is: the share of processor time that went to other programs is told for each line, and
above some percent the ratios say little.
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
"""Steps from one log to the next, as by default in a run."""
WARM = 2.0
"""Seconds of training before anything is measured."""


@dataclass
class Found:
    """What was measured under one condition.

    Attributes:
        speeds: tokens per second, one a round.
        others: share of the cores' time that other programs took, neighbors apart; one a round.
    """

    speeds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        speeds = f"{statistics.median(self.speeds):>7.0f} ({min(self.speeds):.0f}–{max(self.speeds):.0f})"
        return f"{speeds} tokens/s; other programs took {statistics.median(self.others):.0%} of the cores"


def train(waiting: str, orders: Connection) -> None:
    """A process that trains for as many seconds as it is told, and answers with tokens per second.

    Args:
        waiting: how threads wait: `before`, `now`, or as an environment variable says, `NAME=VALUE`.
        orders: come as seconds; 0 ends the process.
    """
    if waiting == "now":
        openmp.wait_briefly()
    elif waiting != "before":
        os.environ.update([waiting.split("=", 1)])
    from pli_train.config import loading
    from pli_train.training import launch

    settings = loading.load("tiny", FULL_DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        made = launch.begin(settings, Path(folder) / "run")
        orders.send("ready")
        while seconds := orders.recv():
            began, tokens = time.perf_counter(), made.progress.tokens
            while time.perf_counter() < began + seconds:
                made._update()
                if made.progress.step % LOG_EVERY == 0:
                    made._log()
            orders.send((made.progress.tokens - tokens) / (time.perf_counter() - began))
        made.batches.close()


@contextlib.contextmanager
def neighbors(number: int) -> Iterator[list[int]]:
    """So many processes that use a core each; their process ids."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", SPIN]) for _ in range(number)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def busy_seconds(cores: set[int]) -> float:
    """Core-seconds that these cores have worked since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return sum(sum(times[core]) - times[core].idle - times[core].iowait for core in cores)


def seconds_of(processes: list[int]) -> float:
    """Core-seconds that these processes have had."""
    return sum(sum(psutil.Process(each).cpu_times()[:2]) for each in processes)


def measured(orders: Connection, trainer: int, seconds: float, cores: set[int], spinning: int, into: Found) -> None:
    """One turn: tokens per second, and what other programs took meanwhile."""
    with neighbors(spinning) as pids:
        watched = [trainer, *pids]
        began, others = time.perf_counter(), busy_seconds(cores) - seconds_of(watched)
        orders.send(seconds)
        into.speeds.append(orders.recv())
        took = busy_seconds(cores) - seconds_of(watched) - others
        into.others.append(max(took, 0.0) / (time.perf_counter() - began) / len(cores))


def started(waiting: str) -> tuple[Connection, BaseProcess]:
    """A process that trains, warmed up, and what it takes orders by."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=train, args=(waiting, its), daemon=True)
    process.start()
    ours.recv()
    ours.send(WARM)
    ours.recv()
    return ours, process


def ratio(above: Found, below: Found) -> str:
    """The ratio of two speeds, round by round: median, lowest, highest."""
    found = [one / other for one, other in zip(above.speeds, below.speeds, strict=True)]
    return f"{statistics.median(found):.3f} ({min(found):.3f}–{max(found):.3f})"


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--seconds", type=float, default=3.0, help="of each turn; a round has four")
    asked.add_argument("--cores", type=int, default=2)
    asked.add_argument("--neighbors", type=int, default=2)
    asked.add_argument("--instead", metavar="NAME=VALUE", help="for `now`, as GOMP_SPINCOUNT=1000")
    wanted = asked.parse_args()
    if message := [name for name in openmp.SETTINGS if name in os.environ]:
        raise SystemExit(f"unset {' and '.join(message)}: how threads wait is what is compared here")
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

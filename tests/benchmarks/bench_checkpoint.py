"""Cost of checkpoints: stall of the loop vs. a bare copy, and a run with a checkpoint per step vs. one with few.

    python tests/benchmarks/bench_checkpoint.py [--saves 7] [--runs 3] [--steps 60]

Two ratios, each from alternating measurements in one process, as median, minimum and maximum.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, TrainerState

from pli_train.checkpointing.retention import Retention
from pli_train.checkpointing.writer import Writer
from pli_train.config import loading
from pli_train.core import anatomy
from pli_train.core.lineage import Lineage
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.optim import optimizer
from pli_train.optim.config import OptimConfig
from pli_train.training import launch


def stalls(saves: int) -> tuple[list[float], list[float], list[float]]:
    """Return seconds of each save's stall, of a bare copy of the same tensors, and of each write in the background.

    BERT-base with both moments, 110 M random parameters. The first pair is excluded, as it allocates memory. Each write
    finishes before the next measurement, so that a disk slower than the steps does not matter.
    """
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert"))
    parts, lineage = anatomy.family("bert"), Lineage.begin(12, 12)
    adam = optimizer.build(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    adam.step()
    adam.zero_grad(set_to_none=True)
    source = [*model.parameters(), *(value for state in adam.state.values() for value in state.values())]
    target = [torch.empty_like(tensor) for tensor in source]
    stalled, copied, written = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), Retention(1, False, 1, 1, saves + 2))
        for step in range(saves + 1):
            began = time.perf_counter()
            writer.save(CheckpointName(step), model, parts, adam, lineage, TrainerState())
            stalled.append(time.perf_counter() - began)
            writer.wait()
            written.append(time.perf_counter() - began)
            began = time.perf_counter()
            with torch.no_grad():
                for one, other in zip(target, source, strict=True):
                    one.copy_(other)
            copied.append(time.perf_counter() - began)
    return stalled[1:], copied[1:], written[1:]


def runs(count: int, steps: int) -> tuple[list[float], list[float]]:
    """Return seconds of the shortened tiny-gpt2 with a checkpoint per step, and with those around growth only."""
    often, seldom = [], []
    for number in range(2 * count):
        every, seconds = ((1, often), (1000, seldom))[(number + number // 2) % 2]
        settings = loading.load("tiny-gpt2", [f"train.steps={steps}", f"checkpoint.every={every}"])
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
            made = launch.begin(settings, Path(folder) / "run")
            began = time.perf_counter()
            made.run()
            seconds.append(time.perf_counter() - began)
    return often, seldom


def row(what: str, seconds: list[float], than: list[float] | None = None, wanted: float | None = None) -> str:
    """Return one line of the table."""
    spread = f"{statistics.median(seconds):>9.3f} {min(seconds):>9.3f} {max(seconds):>9.3f}"
    if than is None:
        return f"{what:<40} {spread}"
    ratio = statistics.median(seconds) / statistics.median(than)
    return f"{what:<40} {spread} {ratio:>7.2f}  (wanted: at most {wanted})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    wanted = parser.parse_args()
    print(f"{'seconds':<40} {'median':>9} {'lowest':>9} {'highest':>9} {'ratio':>7}")
    if wanted.saves:
        stalled, copied, written = stalls(wanted.saves)
        print(row("bare copy of weights and moments", copied))
        print(row("stall of the loop per save", stalled, copied, 1.5))
        print(row("until it is synced to disk", written))
    if wanted.runs:
        often, seldom = runs(wanted.runs, wanted.steps)
        print(row(f"{wanted.steps} steps, checkpoints around growth", seldom))
        print(row(f"{wanted.steps} steps, a checkpoint at every step", often, seldom, 1.1))


if __name__ == "__main__":
    main()

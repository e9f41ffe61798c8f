"""Cost of gradient norms, measured every ten steps: `python tests/benchmarks/bench_grad_norms.py`.

Turns of ten updates with and without norms alternate in one process on the same model; each turn with norms has one
measured update and writes its scalars. The output has two ratios of a turn with norms to one without: that of the
turns' times, which is noisy, and the direct cost: 1 + time spent on norms ÷ time of a turn without. The direct cost
does not include what clipping saves by reusing the total norm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from pli_train.config import loading
from pli_train.core import anatomy
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.optim import grad_norms, optimizer
from pli_train.optim.config import OptimConfig
from pli_train.training import launch
from pli_train.training.grad_norms import GradientNorms
from pli_train.training.tensorboard import ScalarWriter

EVERY = 10
Turn = Callable[[bool], float]
"""Function that makes ten updates, with or without norms, and returns the seconds spent on norms."""


class Clock:
    """Sum of the time spent in chosen calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def runs(self) -> Iterator[None]:
        """Add the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def wrap(self, method: Any, when: Callable[..., bool] = lambda *_: True) -> Any:
        """Return the method, timed if `when` is true for its arguments."""

        def timed(*args: Any) -> Any:
            with self.runs() if when(*args) else contextlib.nullcontext():
                return method(*args)

        return timed


def bert_base(folder: Path, updates: bool, batch: int, length: int) -> Turn:
    """Return turns of a bare loop over BERT-base with random weights: forward, backward, clipping, AdamW."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert"))
    adam, scalars = optimizer.build(model, OptimConfig()), ScalarWriter(folder)
    made = grad_norms.GradNorms(model, anatomy.family("bert"), Lineage.begin(12, 12), EVERY, updates=updates)
    tokens = torch.randint(1000, 30000, (batch, length))
    step = EVERY

    def turn(norms: bool) -> float:
        nonlocal step
        clock = Clock()
        for _ in range(EVERY):
            model(input_ids=tokens, labels=tokens).loss.backward()
            with clock.runs():
                total = made.measure(step) if norms else None
            grad_norms.clip(model.parameters(), 1.0, total)
            adam.step()
            with clock.runs():
                made.updated()
            adam.zero_grad(set_to_none=True)
            step += 1
        with clock.runs():
            for at, wall_time, values in made.read():
                scalars.add(at, values, wall_time)
        return clock.seconds

    return turn


def preset(folder: Path, updates: bool, depth: int) -> Turn:
    """Return turns of the real trainer on tiny-gpt2 at one depth, with logging."""
    overrides = ['growth.schedule=""', f"model.initial_layers={depth}", f"train.update_ratios={str(updates).lower()}"]
    settings = loading.load("tiny-gpt2", [*overrides, "train.steps=100000", f"train.grad_norms_every={EVERY}"])
    with contextlib.redirect_stderr(None):
        made = launch.begin(settings, folder / f"run-{depth}-{updates}")
    made.saver.open(made.state)
    clock, total = Clock(), run_folder.GRAD_NORM + "total"
    for callback in made.callbacks:
        callback.on_train_begin(made.state, made.plan.total_steps)
        if isinstance(callback, GradientNorms):
            for name in ("on_gradients", "on_update", "to_log"):
                setattr(callback, name, clock.wrap(getattr(callback, name)))
        else:
            timed = clock.wrap(callback.on_log, lambda _, logged: total in logged[2])
            callback.on_log = timed  # type: ignore[method-assign]
    measured = made.callbacks
    without = [callback for callback in measured if not isinstance(callback, GradientNorms)]
    made.state.progress.step = EVERY  # skip the first update, which would be measured in addition

    def turn(norms: bool) -> float:
        made.callbacks, clock.seconds = measured if norms else without, 0.0
        for _ in range(EVERY):
            made._update()
        made._write_log()
        return clock.seconds

    return turn


def measure(turn: Turn, turns: int) -> tuple[list[float], list[float], list[float]]:
    """Return seconds of each turn with norms, of each without, and of the norms in each turn."""
    took: dict[bool, list[float]] = {True: [], False: []}
    direct = []
    for norms in (True, False):
        turn(norms)
    for number in range(2 * turns):
        norms = (number + number // 2) % 2 == 0
        began = time.perf_counter()
        spent = turn(norms)
        took[norms].append(time.perf_counter() - began)
        if norms:
            direct.append(spent)
    return took[True], took[False], direct


def row(what: str, taken: tuple[list[float], list[float], list[float]]) -> str:
    """Return one line of the table."""
    with_norms, without, direct = taken
    base = statistics.median(without)
    paired = sorted(a / b for a, b in zip(with_norms, without, strict=True))
    costs = sorted(1 + cost / base for cost in direct)
    step = f"{1000 * base / EVERY:>8.1f} {1000 * statistics.median(direct):>8.2f}"
    whole = f"{statistics.median(with_norms) / base:>8.4f} {paired[0]:>8.4f} {paired[-1]:>8.4f}"
    return f"{what:<36} {step} {whole} {statistics.median(costs):>9.4f} {costs[0]:>8.4f} {costs[-1]:>8.4f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8, help="number of turns with norms, and of turns without")
    parser.add_argument("--batch", type=int, default=4, help="BERT-base: sequences per batch")
    parser.add_argument("--length", type=int, default=128, help="BERT-base: tokens per sequence")
    parser.add_argument("--updates", action="store_true", help="measure ‖update‖ ÷ ‖weights‖ too")
    options = parser.parse_args()
    print(f"{'wanted: ratios of at most 1.01':<36} {'ms/step':>8} {'ms/norms':>8} {'turns':>8} {'lowest':>8}", end="")
    print(f" {'highest':>8} {'direct':>9} {'lowest':>8} {'highest':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for updates in (False, True) if options.updates else (False,):
            also = ", updates too" if updates else ""
            for depth in (1, 6):
                print(
                    row(
                        f"tiny-gpt2, depth {depth}{also}",
                        measure(preset(Path(folder), updates, depth), options.turns),
                    )
                )
            base = bert_base(Path(folder), updates, options.batch, options.length)
            print(row(f"BERT-base, {options.batch} × {options.length} tokens{also}", measure(base, options.turns)))
    print(f"{options.turns} turns of {EVERY} updates each way; {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()

"""How often the interval of an event's change of loss holds the change over all held-out text.

Small runs shaped as the default preset are trained. At each of their events every held-out block is read by the model
before and after, which gives the truth; then blocks are drawn again and again as a run draws them, and an interval is
computed from each draw as `metrics.disturbance.at_event` does, once with all of its blocks and once with the first 16.
95 % of the intervals should hold the truth. The same is asked of the eval loss before the event.

With --old the rule of before is shown too: as many blocks in a row from a random place, treated as independent.

    python tests/benchmarks/coverage_delta.py --csv tests/benchmarks/results/coverage_delta.csv
    python tests/benchmarks/coverage_delta.py --old
"""

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

BLOCKS = 64
"""As many as the default preset draws."""
COLUMNS = ["rule", "run", "step", "event", "delta", "error", "covered", "loss", "loss_error", "loss_covered"]
SMALL = [
    "model.config.n_embd=48",
    "tokenizer.vocab_size=1024",
    "data.fraction=0.4",
    "train.steps=240",
    "train.block_size=64",
    "train.batch_size=8",
    "train.eval_every=1000",
    "train.eval_full=0",
    "train.grad_norms_every=0",
    "optim.lr=3e-3",
    "checkpoint.every=1000",
]


def losses_around_events(folder, seed, overrides):
    """Train a run; for each event its step, what happened, and each block's summed loss before and after.

    Returns:
        The events, the number of targets of each block, and how hard each block is.
    """
    import transformers

    from pli_analysis.metrics.lineage import by_step
    from pli_train.checkpointing import checkpoint
    from pli_train.config import loading
    from pli_train.core.run_format import run_folder
    from pli_train.training import launch

    transformers.logging.disable_progress_bar()
    trainer = launch.begin(loading.load("tiny", [*overrides, f"seed={seed}"]), folder)
    trainer.run()
    found, counts, held_out = [], None, trainer.evaluator.held_out
    everything = np.arange(held_out.count)
    for step, message in by_step(trainer.state.lineage).items():
        sides = []
        for after in (False, True):
            model = checkpoint.read(folder / str(run_folder.CheckpointName(step, after))).model
            sums, counts = held_out.losses(model, trainer.accelerator, everything, trainer.state.context, 64)
            sides.append(sums)
        found.append((step, " ".join(message), *sides))
    return found, counts, held_out.difficulty


def drawn(difficulty, seed, blocks=BLOCKS):
    """Blocks as a run draws them."""
    from pli_train.core.sampling import draw

    return draw(difficulty, blocks, seed)


def first_16(difficulty, seed):
    """The first of them, as `--blocks 16` reads them."""
    locations, design = drawn(difficulty, seed)
    return locations[:16], design.first(16)


def in_a_row(difficulty, seed, blocks=BLOCKS):
    """Neighbors from a random place, as if each had been drawn from an endless text."""
    from pli_train.core.sampling import Design

    start = np.random.default_rng(seed).integers(len(difficulty) - blocks + 1)
    return np.arange(start, start + blocks), Design.simple(blocks, 10**12)


def coverage(sums, counts, difficulty, rule, placements):
    """(share of intervals that hold the mean of all blocks, the median standard error)."""
    from pli_analysis.metrics.disturbance.at_event import _interval

    truth, held, errors = sums.sum() / counts.sum(), 0, []
    for seed in range(placements):
        locations, design = rule(difficulty, seed)
        found = design.mean(sums[locations], counts[locations])
        _, low, high = _interval(found)
        held += low <= truth <= high
        errors.append(found.error)
    return held / placements, float(np.median(errors))


def rows(folder, seed, placements, rules, overrides=SMALL):
    """A row for each event of a run and each rule, with the names of COLUMNS."""
    events, counts, difficulty = losses_around_events(folder, seed, overrides)
    for step, event, before, after in events:
        for rule in rules:
            covered, error = coverage(after - before, counts, difficulty, rule, placements)
            loss_covered, loss_error = coverage(before, counts, difficulty, rule, placements)
            delta, loss = (after - before).sum() / counts.sum(), before.sum() / counts.sum()
            values = [rule.__name__, seed, step, event, delta, error, covered, loss, loss_error, loss_covered]
            yield dict(zip(COLUMNS, values, strict=True))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=5)
    ask.add_argument("--placements", type=int, default=200)
    ask.add_argument("--old", action="store_true", help="also blocks in a row, treated as independent")
    ask.add_argument("--csv", type=Path, help="write the table here too")
    asked = ask.parse_args()
    rules, table = [drawn, first_16] + [in_a_row] * asked.old, []
    print(*COLUMNS, sep="  ")
    for seed in range(asked.runs):
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder) / "run", seed, asked.placements, rules):
                print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()), sep="  ", flush=True)
                table.append(row)
    for rule in rules:
        shares = np.array([row["covered"] for row in table if row["rule"] == rule.__name__])
        print(f"{rule.__name__}: intervals of delta hold the truth in {shares.min():.1%} to {shares.max():.1%}, "
              f"mean {shares.mean():.1%}; {((shares >= 0.92) & (shares <= 0.98)).sum()} of {len(shares)} events "
              "lie within 92 to 98 %", file=sys.stderr)  # fmt: skip
    if asked.csv:
        with asked.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            rounded = ({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in r.items()} for r in table)
            writer.writerows(rounded)


if __name__ == "__main__":
    main()

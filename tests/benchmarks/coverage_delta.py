"""Coverage of the interval of an event's change of loss: how often it contains the change over all held-out text.

Small runs similar to tiny-gpt2 are trained. At each event all held-out blocks are evaluated before and after,
which gives the true value; then blocks are sampled repeatedly as in a run, and an interval is computed from each sample
as in `metrics.disturbance.at_event`, once with all of its blocks and once with the first 16. 95 % of the intervals
should contain the true value. The same is done for the eval loss before the event.

With --old the earlier rule is shown too: the same number of consecutive blocks, treated as independent.

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
"""Number of sampled blocks, as in tiny-gpt2."""
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
    """Train a run and evaluate all held-out blocks before and after each event.

    Returns:
        For each event its step, its description, and the summed loss of each block before and after; the number of
        targets of each block; the difficulty of each block.
    """
    import transformers

    from pli_analysis.metrics.lineage import by_step
    from pli_train.checkpointing import checkpoint
    from pli_train.config import loading
    from pli_train.core.run_format import run_folder
    from pli_train.training import launch

    transformers.logging.disable_progress_bar()
    trainer = launch.begin(loading.load("tiny-gpt2", [*overrides, f"seed={seed}"]), folder)
    trainer.run()
    found, counts, held_out = [], None, trainer.evaluator.held_out
    everything = np.arange(held_out.count)
    for step, descriptions in by_step(trainer.state.lineage).items():
        sides = []
        for after in (False, True):
            model = checkpoint.read(folder / str(run_folder.CheckpointName(step, after))).model
            sums, counts = held_out.losses(model, trainer.accelerator, everything, trainer.state.context, 64)
            sides.append(sums)
        found.append((step, " ".join(descriptions), *sides))
    return found, counts, held_out.difficulty


def drawn(difficulty, seed, blocks=BLOCKS):
    """Sample blocks as in a run."""
    from pli_train.core.sampling import draw

    return draw(difficulty, blocks, seed)


def first_16(difficulty, seed):
    """Return the first 16 of them, as with `--blocks 16`."""
    locations, design = drawn(difficulty, seed)
    return locations[:16], design.first(16)


def in_a_row(difficulty, seed, blocks=BLOCKS):
    """Return consecutive blocks from a random position, treated as independent samples."""
    from pli_train.core.sampling import Design

    start = np.random.default_rng(seed).integers(len(difficulty) - blocks + 1)
    return np.arange(start, start + blocks), Design.simple(blocks, 10**12)


def coverage(sums, counts, difficulty, rule, placements):
    """Return the share of intervals that contain the mean over all blocks, and the median standard error."""
    truth, held, errors = sums.sum() / counts.sum(), 0, []
    for seed in range(placements):
        locations, design = rule(difficulty, seed)
        found = design.mean(sums[locations], counts[locations])
        low, high = found.interval()
        held += low <= truth <= high
        errors.append(found.error)
    return held / placements, float(np.median(errors))


def rows(folder, seed, placements, rules, overrides=SMALL):
    """Yield a row for each event of a run and each rule, with the names of COLUMNS."""
    events, counts, difficulty = losses_around_events(folder, seed, overrides)
    for step, event, before, after in events:
        for rule in rules:
            covered, error = coverage(after - before, counts, difficulty, rule, placements)
            loss_covered, loss_error = coverage(before, counts, difficulty, rule, placements)
            delta, loss = (after - before).sum() / counts.sum(), before.sum() / counts.sum()
            values = [rule.__name__, seed, step, event, delta, error, covered, loss, loss_error, loss_covered]
            yield dict(zip(COLUMNS, values, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--placements", type=int, default=200)
    parser.add_argument("--old", action="store_true", help="show the earlier rule too")
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    options = parser.parse_args()
    rules, table = [drawn, first_16] + [in_a_row] * options.old, []
    print(*COLUMNS, sep="  ")
    for seed in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(Path(folder) / "run", seed, options.placements, rules):
                print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()), sep="  ", flush=True)
                table.append(row)
    for rule in rules:
        shares = np.array([row["covered"] for row in table if row["rule"] == rule.__name__])
        print(f"{rule.__name__}: intervals of delta contain the truth in {shares.min():.1%} to {shares.max():.1%}, "
              f"mean {shares.mean():.1%}; {((shares >= 0.92) & (shares <= 0.98)).sum()} of {len(shares)} events "
              "are between 92 and 98 %", file=sys.stderr)  # fmt: skip
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            rounded = ({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in r.items()} for r in table)
            writer.writerows(rounded)


if __name__ == "__main__":
    main()

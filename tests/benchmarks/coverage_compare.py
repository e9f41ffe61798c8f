"""Coverage of the 95 % intervals of `pli-analyze compare`, on simulated groups of runs with known true values.

A run's loss at step s is SCALE · (1 + rate · s)^-POWER + offset + noise of each evaluation. Pace (log-normal) and
offset vary over seeds; in a paired design runs of one seed share most of both. A run of k times the rate needs 1/k of
the steps to any level, so the true speed-up is SPEED_UP, the ratio of median rates; the true difference of mean losses
is an integral over the rate (Gauss–Hermite). Intervals are those of `compare.speed_ups` at the first default level and
of `compare.groups` at the last step.

    python tests/benchmarks/coverage_compare.py --csv tests/benchmarks/results/coverage_compare.csv
    python tests/benchmarks/coverage_compare.py --old-rule --replicates 1000 \\
        --csv tests/benchmarks/results/coverage_compare_old.csv

`--old-rule` uses the earlier rule of compare: an unpaired percentile bootstrap over the runs of both groups.
"""

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from pli_analysis.metrics.comparison import compare, group_difference
from pli_analysis.metrics.comparison import curves as curve_metric
from pli_analysis.metrics.comparison.curves import Curve

SCALE, POWER, RATE, SPEED_UP = 6.0, 0.15, 0.02, 1.5
STEPS = np.arange(0, 2001, 50)
OWN, SHARED = 0.1, 0.3
"""Standard deviations of log rate: of a single run, and, in a paired design, of all runs of a seed."""
OFFSET, NOISE = 0.1, 0.001
"""Standard deviations in nats: of a run's offset ÷ that of its log rate, and of an evaluation."""

EQUAL = [(n, n, design, ratio) for design in ("seed", "none") for ratio in (1, 3) for n in (2, 3, 5, 10)]
UNEQUAL = [(one, other, "none", ratio) for one, other in ((2, 3), (2, 10), (3, 10)) for ratio in (1 / 3, 3)]
CELLS = [*EQUAL, *UNEQUAL, (1, 2, "none", 1)]
"""Runs of the reference and of the other group, pairing, and ratio of their standard deviations (other ÷ reference)."""


def group(chance, name, rate, numbers, common, own):
    """Return loss curves of a group. `common`, (runs, 2), is the part of rate and offset shared by runs of one seed."""
    alone = own * chance.normal(size=(len(numbers), 2))
    rates, offsets = rate * np.exp(SHARED * common[:, 0] + alone[:, 0]), OFFSET * (SHARED * common[:, 1] + alone[:, 1])
    losses = SCALE * (1 + rates[:, None] * STEPS) ** -POWER + offsets[:, None]
    losses += NOISE * chance.normal(size=losses.shape)
    named = zip(numbers, losses, strict=True)
    return [Curve(f"{name}-{n}", name, pd.DataFrame({"step": STEPS, "loss": of}), seed=n) for n, of in named]


def mean_loss(rate, deviation):
    """Return the expected loss of a group at the last step, over all seeds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return float((weights * SCALE * (1 + rate * np.exp(deviation * nodes) * STEPS[-1]) ** -POWER).sum() / weights.sum())


def bootstrap(chance, base, mine, draws=2000):
    """Return the percentile bootstrap interval of mean(`mine`) − mean(`base`)."""
    means = [of[chance.integers(len(of), size=(draws, len(of)))].mean(axis=1) for of in (base, mine)]
    return np.percentile(means[1] - means[0], [2.5, 97.5])


def old_intervals(chance, curves):
    """Return the intervals of speed-up and difference of losses by the earlier rule."""
    level, [base, mine] = compare.default_levels(curves)[0], compare.by_group(curves).values()
    logs = [np.log([curve_metric.reached(curve, level, "step") for curve in of]) for of in (mine, base)]
    ends = [np.array([curve_metric.loss_at(curve, STEPS[-1]) for curve in of]) for of in (base, mine)]
    return np.exp(bootstrap(chance, *logs)), bootstrap(chance, *ends)


def intervals(curves):
    """Return the intervals of the speed-up at the first default level, and of the difference of losses at the end."""
    up = compare.speed_ups(curves, compare.default_levels(curves)[:1]).iloc[1]
    loss = compare.groups(curves, STEPS[-1], "step", curves[0].group).iloc[1]
    return tuple(up[["speed_up_low", "speed_up_high"]]), tuple(loss[["difference_low", "difference_high"]])


def coverage(base_runs, runs, pairing, ratio, replicates, old=False):
    """Return two rows, for the speed-up and for the difference of losses."""
    chance = np.random.default_rng([base_runs, runs, int(3 * ratio), pairing == "seed"])
    shared = SHARED if pairing == "seed" else 0.0
    deviations = np.hypot([OWN, OWN * ratio], shared)
    losses = [mean_loss(rate, of) for rate, of in zip((RATE, RATE * SPEED_UP), deviations, strict=True)]
    truths = {"speed_up": SPEED_UP, "loss": losses[1] - losses[0]}
    found = []
    for _ in range(replicates):
        common = chance.normal(size=(max(base_runs, runs), 2)) if shared else np.zeros((base_runs + runs, 2))
        curves = group(chance, "base", RATE, range(base_runs), common[:base_runs], OWN)
        first = 0 if shared else base_runs
        curves += group(chance, "other", RATE * SPEED_UP, range(first, first + runs), common[:runs], OWN * ratio)
        found.append(old_intervals(chance, curves) if old else intervals(curves))
    rows = []
    for (quantity, truth), bounds in zip(truths.items(), np.array(found).transpose(1, 0, 2), strict=True):
        given = bounds[np.isfinite(bounds).all(axis=1)]
        covers, width = math.nan, math.nan
        if len(given):
            covers = ((given[:, 0] <= truth) & (truth <= given[:, 1])).mean()
            width = np.median(given[:, 1] - given[:, 0])
        row = {"runs": f"{base_runs} v {runs}", "pairing": pairing, "sd_ratio": round(ratio, 2), "quantity": quantity}
        row |= {"replicates": replicates, "intervals": len(given), "coverage": covers}
        row |= {"error": math.sqrt(covers * (1 - covers) / max(len(given), 1)), "width": width}
        rows.append(row)
    return rows


def table(cells, replicates, old=False):
    return pd.DataFrame([row for cell in cells for row in coverage(*cell, replicates, old)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--old-rule", action="store_true")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    group_difference.DRAWS = 100  # of the exact test, which is not used here
    parts = []
    for cell in CELLS:
        parts.append(table([cell], options.replicates, options.old_rule))
        print(parts[-1].to_string(index=False, header=len(parts) == 1), flush=True)
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(parts).to_csv(options.csv, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()

"""Every number in reports/sweep is recomputed from its data, by pandas and scipy alone."""

from pathlib import Path

import numpy as np
import pandas as pd

from tests.reports.pages import interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "sweep"
BEST, FULL, HAND, NEVER = "best strategy", "full depth, tuned", "hand-written schedule", "never grown"
RUNS = pd.read_csv(REPORT / "runs.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")


def of(run, **where):
    """Losses of some runs, by seed."""
    rows = RUNS[(RUNS["run"] == run) & np.all([RUNS[key] == value for key, value in where.items()], axis=0)]
    return rows.set_index("seed")["final_loss"]


def paired(one, other):
    """Mean difference over common seeds, with its 95 % t-interval."""
    change = (one - other).dropna()
    return *interval(change), len(change)


def test_means_and_deviations():
    for run, name in ((BEST, BEST), (FULL, "full depth, tuned learning rate"), (HAND, HAND)):
        losses = of(run)
        assert sorted(losses.index) == [1, 2, 3, 4, 5, 6]
        assert row_of(PAGE, name) == [f"{losses.mean():.3f}", f"{losses.std():.3f}"]


def test_differences_and_their_intervals():
    for one, other, name in (
        (BEST, FULL, "best strategy − full depth"),
        (BEST, HAND, "best strategy − hand-written schedule"),
        (HAND, FULL, "hand-written schedule − full depth"),
    ):
        mean, low, high, count = paired(of(one), of(other))
        assert count == 6
        assert row_of(PAGE, name) == [signed(mean), f"{signed(low)} to {signed(high)}"]


def test_what_the_text_says_of_single_runs():
    full = of(FULL).sort_values()
    assert f"ended at {full.iloc[-1]:.3f}, the five others between {full.iloc[0]:.3f} and {full.iloc[-2]:.3f}" in flat()
    rest = (of(BEST) - of(FULL)).drop(full.index[-1])
    assert f"the mean difference is {signed(rest.mean())}" in flat()
    lowest = [of(NEVER, final_depth=depth, seed=0).min() for depth in (1, 2, 3)]
    words = "one layer {:.3f}, two layers {:.3f}, three layers {:.3f}"
    assert words.format(*lowest) in flat() and max(lowest) < of(BEST).mean()


def test_the_baseline_at_other_learning_rates():
    rates = {lr: of(NEVER, final_depth=6, lr=lr) for lr in (0.002, 0.003, 0.004)}
    means = [f"{losses.mean():.3f}" for losses in rates.values()]
    assert f"{means[0]}, {means[1]} and {means[2]} on three of the six seeds" in flat()
    mean, low, high, count = paired(of(BEST), rates[0.004])
    assert count == 3
    assert f"by {signed(mean)} there ({signed(low)} to {signed(high)}, n = 3)" in flat()


def test_the_headline_in_the_readme():
    mean, low, high, count = paired(of(BEST), of(FULL))
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    words = f"a loss {-mean:.2f} below that of the tuned six-layer baseline at equal FLOPs"
    assert f"{words} (95 % interval {-high:.2f} to {-low:.2f}, n = {count} seeds)" in readme
    index = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    assert f"(−{-mean:.2f} nats per token)" in index and of(NEVER, final_depth=1).min() < of(BEST).mean()


def test_counts_of_trials():
    trials = pd.read_csv(REPORT / "trials.csv")
    pruned = trials[trials["state"] == "pruned"].groupby("arm").size()
    searched = trials[trials["arm"] != "confirm"].groupby("arm").size()
    for arm in ("growth", "baseline"):
        assert searched[arm] == 40
        assert f"{pruned[arm]} of the 40 {arm} trials" in flat()
    assert f"{searched['growth'] - pruned['growth']} growth trials were not pruned".replace("7", "Seven") in flat()


def flat():
    return " ".join(PAGE.split())

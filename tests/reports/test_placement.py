"""Every number in reports/placement is recomputed from its trials, by pandas and scipy alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tests.reports.pages import assert_differences, assert_table, interval, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "placement"
TRIALS = pd.read_csv(REPORT / "trials.csv")
DIFFERENCES = pd.read_csv(REPORT / "differences.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
NAMES = {
    "interleave": "two copies right above each layer",
    "g-stack": "two copies of the whole stack on top",
    "8 × 0.5@0": "eight copies of the lowest layer at the bottom",
    "8 × 0.5@2": "eight copies of the second layer in the middle",
    "8 × 0.5@4": "eight copies of the highest layer on top",
    "0.5@3 0.5@1 0.5@5 …": "eight random positions",
    "midas": "gradually: blocks of 4 layers in the middle",
    "pli": "gradually: one layer at a time in the middle",
}
WRITTEN = dict(zip(TRIALS["growth.schedule"].unique(), NAMES, strict=True))
LOSSES = TRIALS.assign(variant=TRIALS["growth.schedule"].map(WRITTEN)).pivot(
    index="seed", columns="variant", values="loss"
)


def between(first, second):
    """`mean (low to high)` of a difference, as the page writes it."""
    mean, low, high = interval(LOSSES[first] - LOSSES[second])
    return f"{signed(mean)} ({signed(low)} to {signed(high)})"


def test_all_variants_have_the_same_seeds_and_flops():
    assert all(name in written or name[:3] in written for written, name in WRITTEN.items() if " " not in name)
    assert LOSSES.shape == (3, 8) and not LOSSES.isna().any(axis=None)
    assert TRIALS["flops"].between(3.99e12, 4e12).all() and (TRIALS["state"] == "complete").all()


def test_the_committed_differences_and_the_table():
    assert_differences(DIFFERENCES, LOSSES, "interleave")
    assert_table(PAGE, DIFFERENCES, LOSSES, "interleave", NAMES.get)


def test_the_headline_and_the_index():
    mean, low, high = interval(LOSSES["8 × 0.5@0"] - LOSSES["interleave"])
    bottom = DIFFERENCES.set_index("variant").loc["8 × 0.5@0"]
    assert f"eight times ends {mean:.3f} above" in TEXT
    assert f"(95 % interval {signed(low)} to {signed(high)}, paired t, n = 3 seeds; p = {bottom['p']:.3f}," in TEXT
    assert f"and {bottom['holm']:.2f} after adjustment" in TEXT
    assert f"{signed(mean)} (95 % interval {signed(low)} to {signed(high)})" in INDEX
    assert LOSSES.mean().idxmin() == "g-stack"
    assert f"copies of the whole stack on top ({between('g-stack', 'interleave').replace(' (', ', ')}" in TEXT
    assert f"g-stack − interleave {between('g-stack', 'interleave')}" in INDEX


def test_the_order_is_the_same_in_all_seeds():
    order = ["g-stack", "interleave", "8 × 0.5@4", "8 × 0.5@2", "8 × 0.5@0"]
    assert (LOSSES[order].diff(axis=1).iloc[:, 1:] > 0).all(axis=None)


def test_what_is_said_of_the_papers():
    assert f"g-stack − interleave is {between('g-stack', 'interleave')}" in TEXT
    assert f"Top − bottom is {between('8 × 0.5@4', '8 × 0.5@0')}" in TEXT
    mean, low, high = interval(LOSSES["8 × 0.5@2"] - LOSSES["interleave"])
    assert f"are {mean:.3f} above interleave ({signed(low)} to {signed(high)})" in TEXT
    assert f"all eight at 50 % by {between('pli', '8 × 0.5@2')}" in TEXT
    assert f"differs from g-stack by {between('midas', 'g-stack')}" in TEXT
    steps = TRIALS.groupby("growth.schedule")["steps"].first()
    fewer = 1 - steps[steps < 1868] / 1868
    assert len(fewer) == 2 and {f"{share:.0%}" for share in fewer} == {"14%"}


def test_power():
    changes = [LOSSES[name] - LOSSES["interleave"] for name in LOSSES if name != "interleave"]
    spread = np.sqrt(np.mean([change.var() for change in changes]))
    assert f"({spread:.3f} on average)" in TEXT

    def power(n, effect):
        return 1 - stats.nct.cdf(stats.t.ppf(0.975, n - 1), n - 1, effect / spread * n**0.5)

    seeds = next(n for n in range(2, 100) if power(n, 0.01) >= 0.8)
    assert f"With {seeds} seeds, a difference of 0.01" in TEXT
    smallest = next(effect for effect in np.arange(0.01, 0.2, 0.01) if power(3, effect) >= 0.8)
    assert f"effects below about {smallest:.2f}" in TEXT


def test_limits():
    assert (DIFFERENCES["holm"] > 0.05).all()
    clear = DIFFERENCES[(DIFFERENCES["low"] > 0) | (DIFFERENCES["high"] < 0)]["variant"]
    assert set(clear) == {"8 × 0.5@0", "8 × 0.5@2", "0.5@3 0.5@1 0.5@5 …"}

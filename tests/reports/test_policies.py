"""Every number in reports/policies is recomputed from its trials, by pandas and scipy alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tests.reports.pages import assert_differences, assert_table, interval, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "policies"
TRIALS = pd.read_csv(REPORT / "trials.csv")
DIFFERENCES = pd.read_csv(REPORT / "differences.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
REFERENCE = "copy none"
LOSSES = TRIALS.assign(variant=TRIALS["growth.optimizer_state"] + " " + TRIALS["growth.learning_rate"]).pivot(
    index="seed", columns="variant", values="loss"
)


def change(variant):
    return LOSSES[variant] - LOSSES[REFERENCE]


def reach(variant):
    _, low, high = interval(change(variant))
    return f"{signed(low)} to {signed(high)}"


def test_all_variants_have_the_same_seeds_and_flops():
    assert LOSSES.shape == (4, 8) and not LOSSES.isna().any(axis=None)
    assert TRIALS["flops"].between(1.99e12, 2e12).all() and (TRIALS["state"] == "complete").all()
    assert TRIALS["steps"].unique().tolist() == [934] and round(100 / 934, 2) == 0.11
    assert sorted(LOSSES.index) == [11, 12, 13, 14]


def test_the_committed_differences_and_the_table():
    assert_differences(DIFFERENCES, LOSSES, REFERENCE)
    assert_table(PAGE, DIFFERENCES, LOSSES, REFERENCE, lambda variant: variant.replace(" ", " | "))


def test_the_headline_and_the_index():
    holm = DIFFERENCES.set_index("variant")["holm"]
    rewarm, zero = change("copy rewarm").mean(), change("zero none").mean()
    assert f"raises the loss** by {rewarm:.3f} (95 % interval {reach('copy rewarm')}, paired t, n = 4 seeds;" in TEXT
    assert f"adjusted for seven comparisons, p = {holm['copy rewarm']:.2g})" in TEXT
    assert f"start at zero lower it by {-zero:.3f} ({reach('zero none')}; p = {holm['zero none']:.2g})" in TEXT
    assert (
        f"rewarm − none {signed(rewarm)} (95 % interval {reach('copy rewarm')}, p = {holm['copy rewarm']:.2g}" in INDEX
    )
    assert f"zero − copy is {signed(zero)} ({reach('zero none')})" in TEXT
    assert f"rewarm − none is {signed(rewarm)} ({reach('copy rewarm')})" in TEXT


def test_what_zero_and_rewind_do():
    for variant in ("zero none", "copy rewind"):
        assert (change(variant) < 0).all() and f"{-change(variant).mean():.3f}" == "0.010"
    assert f"by 0.010, and together by {-change('zero rewind').mean():.3f}." in TEXT


def test_the_power():
    spread = np.sqrt(np.mean([change(variant).var() for variant in LOSSES if variant != REFERENCE]))
    assert f"({spread:.3f} on average)" in TEXT

    def power(n):
        return 1 - stats.nct.cdf(stats.t.ppf(0.975, n - 1), n - 1, 0.01 / spread * n**0.5)

    seeds = next(n for n in range(2, 100) if power(n) >= 0.8)
    assert f"{seeds} seeds detect a difference of 0.01" in TEXT

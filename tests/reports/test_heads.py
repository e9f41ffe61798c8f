"""Every number in reports/heads is recomputed from its runs, by pandas and scipy alone."""

from pathlib import Path

import pandas as pd
from scipy import stats

from tests.reports.pages import assert_differences, cells, interval, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "heads"
TRIALS, DIFFERENCES, PRUNING = (pd.read_csv(REPORT / f"{name}.csv") for name in ("trials", "differences", "pruning"))
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
REFERENCE, HEADS, BOTH, FOUR = "12 heads", "4-to-12 heads", "heads and layers", "4 heads"
LOSSES = TRIALS.pivot(index="seed", columns="variant", values="loss")
HOLM = DIFFERENCES.set_index("variant")["holm"]
ROWS = [cells(line) for line in PAGE.splitlines() if line.startswith("|")]


def change(variant, reference=REFERENCE):
    return LOSSES[variant] - LOSSES[reference]


def reach(variant, reference=REFERENCE):
    _, low, high = interval(change(variant, reference))
    return f"{signed(low)} to {signed(high)}"


def shares(variant, origin="all"):
    chosen = PRUNING[(PRUNING["variant"] == variant) & (PRUNING["origin"] == origin)]
    return chosen.set_index("seed")["prunable_share"]


def points(share):
    return f"{100 * share:.0f}".replace("-", "−")


def test_all_variants_have_the_same_seeds_and_flops():
    assert LOSSES.shape == (4, 4) and not LOSSES.isna().any(axis=None) and LOSSES.index.tolist() == [81, 82, 83, 84]
    assert TRIALS["flops"].between(9.99e11, 1e12).all()


def test_the_committed_differences_and_the_table():
    assert_differences(DIFFERENCES, LOSSES, REFERENCE)
    steps = TRIALS.groupby("variant")["steps"].agg(["min", "max"])
    assert (steps["min"] == steps["max"]).all()
    for variant in LOSSES:
        row = [variant, str(steps.loc[variant, "min"]), f"{LOSSES[variant].mean():.3f}"]
        if variant == REFERENCE:
            row += ["", "", ""]
        else:
            row += [signed(change(variant).mean()), reach(variant), f"{HOLM[variant]:.2g}"]
        assert row in ROWS


def test_the_headline_and_the_index():
    words = f"{-change(HEADS).mean():.3f} below 12 heads (95 % interval {reach(HEADS)}, paired t, n = 4 seeds; p = "
    assert f"{words}{HOLM[HEADS]:.4f} after adjustment)" in TEXT
    assert f"{-change(BOTH).mean():.3f} below ({reach(BOTH)}; p = {HOLM[BOTH]:.4f})" in TEXT
    assert f"end {-change(FOUR).mean():.3f} below 12 heads ({reach(FOUR)}; p = {HOLM[FOUR]:.4f})" in TEXT
    assert f"{-change(HEADS).mean():.3f} below 12 heads (95 % interval {reach(HEADS)}, n = 4 seeds)" in INDEX
    assert f"4 heads that never grow end {change(HEADS, FOUR).mean():.3f} below" in INDEX


def test_sentences():
    assert f"ends {change(HEADS, FOUR).mean():.3f} above 4 heads that never grow ({reach(HEADS, FOUR)})" in TEXT
    assert f"layers {change(BOTH, FOUR).mean():.3f} above ({reach(BOTH, FOUR)})" in TEXT
    mean, low, high = interval(change(HEADS, BOTH))
    assert f"lowers the loss by {mean:.3f} ({low:.3f} to {high:.3f})" in TEXT


def test_prunable_shares():
    for variant in LOSSES:
        mean, low, high = interval(shares(variant))
        assert [variant, f"{points(mean)} %", f"{points(low)} to {points(high)} %"] in ROWS
    more, low, high = interval(shares(HEADS) - shares(REFERENCE))
    assert f"12 heads is +{points(more)} percentage points ({points(low)} to +{points(high)})" in TEXT
    initial, inserted = shares(HEADS, "initial"), shares(HEADS, "inserted")
    p = stats.ttest_rel(inserted, initial).pvalue
    assert f"{points(initial.mean())} % of the initial and {points(inserted.mean())} % of the inserted heads" in TEXT
    assert f"(p = {p:.2g})" in TEXT

"""Every number in reports/stacking is recomputed from its data, by pandas and scipy alone."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tests.reports.pages import interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "stacking"
RUNS = pd.read_csv(REPORT / "runs.csv")
CURVES = pd.read_csv(REPORT / "curves.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
GROUPS = {
    "stack-zero": "4 to 12 layers, whole stack, moments at zero",
    "interleave-zero": "4 to 12 layers, each copy above its donor, moments at zero",
    "interleave-copy": "4 to 12 layers, each copy above its donor, moments copied",
    "depth-6": "6 layers",
    "depth-12": "12 layers",
}
LOSSES = RUNS.pivot(index="seed", columns="group", values="loss")
CHANGES = {group: LOSSES["stack-zero"] - LOSSES[group] for group in GROUPS if group != "stack-zero"}


def reach(change):
    _, low, high = interval(change)
    return f"{signed(low)} to {signed(high)}"


def p_of(change):
    return stats.ttest_1samp(change, 0).pvalue


def speed_ups(group):
    """FLOPs of a group up to its own last eval loss ÷ those of the grown run up to that loss, by seed."""
    found = []
    for seed, curve in CURVES[CURVES["group"] == group].groupby("seed"):
        grown = CURVES[(CURVES["group"] == "4-to-12") & (CURVES["seed"] == seed)]
        final = curve["loss"].iloc[-1]
        found.append(reached(curve, final) / reached(grown, final))
    return np.array(found)


def reached(curve, loss):
    """FLOPs at which a curve first falls to a loss, linearly interpolated; NaN if it does not."""
    for (before, high), (after, low) in pairwise(zip(curve["flops"], curve["loss"], strict=True)):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return np.nan


def test_each_group_has_its_seeds_and_equal_flops():
    assert LOSSES.shape == (6, 5) and sorted(LOSSES.index) == [1, 2, 3, 4, 5, 6] and not LOSSES.isna().any(axis=None)
    assert RUNS["flops"].between(0.999e13, 1e13).all()
    others = pd.read_csv(ROOT / "reports" / "growth" / "runs.csv").pivot(index="seed", columns="group", values="loss")
    for mine, theirs in (("depth-12", "depth-12"), ("depth-6", "depth-6"), ("interleave-copy", "4-to-12")):
        assert LOSSES[mine].tolist() == others[theirs].tolist()


def test_the_tables():
    losses, differences = PAGE.split("The whole stack with moments at zero, minus")
    for group, name in GROUPS.items():
        assert row_of(losses, name) == [f"{LOSSES[group].mean():.3f}", f"{LOSSES[group].std():.3f}", "6"]
    for group, change in CHANGES.items():
        p = p_of(change)
        expected = [signed(change.mean()), reach(change), f"{p:.1g}" if p < 0.01 else f"{p:.2g}"]
        assert row_of(differences, GROUPS[group].removeprefix("4 to 12 layers, ")) == expected


def test_the_headline_the_index_and_the_first_page():
    six, twelve = CHANGES["depth-6"], CHANGES["depth-12"]
    holm = 2 * p_of(six), max(2 * p_of(six), p_of(twelve))
    assert (
        f"ends {-twelve.mean():.3f} below twelve layers (95 % interval {reach(twelve)}, paired t, n = 6 seeds" in TEXT
    )
    assert f"p = {holm[1]:.3f}) and {-six.mean():.3f} below six layers" in TEXT
    assert f"({reach(six)}; p = {holm[0]:.3f}; both adjusted for two comparisons)" in TEXT
    assert (six < 0).all() and (twelve < 0).all()
    ratios = np.log(speed_ups("depth-6"))
    mean, low, high = np.exp(interval(ratios))
    assert f"{mean:.2f} times fewer FLOPs ({low:.2f} to {high:.2f})" in TEXT
    index = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    assert (
        f"{signed(twelve.mean())} against twelve layers (95 % interval {reach(twelve)}), {signed(six.mean())}" in index
    )
    assert (
        f"against six ({reach(six)}), which it reaches with {mean:.2f} times fewer FLOPs ({low:.2f} to {high:.2f})"
        in index
    )
    first = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    _, low, high = interval(-six)
    assert f"ends {-six.mean():.3f} below the best fixed depth that was tried at equal FLOPs" in first
    assert (
        f"(95 % interval {low:.3f} to {high:.3f}, n = 6 seeds), and {-twelve.mean():.3f} below twelve layers" in first
    )


def test_what_the_points_say():
    zero = LOSSES["interleave-zero"] - LOSSES["interleave-copy"]
    assert f"{-zero.mean():.3f} below those with copied moments ({reach(zero)})" in TEXT
    six, twelve = speed_ups("depth-6"), speed_ups("depth-12")
    assert f"over six layers is between {six.min():.2f} and {six.max():.2f} in all seeds" in TEXT
    assert f"between {np.nanmin(twelve):.2f} and {np.nanmax(twelve):.2f} in five seeds" in TEXT
    assert np.isnan(twelve).sum() == 1 and (CHANGES["depth-12"][np.isnan(twelve)] < 0).all()

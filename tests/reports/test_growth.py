"""Every number in reports/growth is recomputed from its data, by pandas and scipy alone."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from tests.reports.pages import interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "growth"
RUNS = pd.read_csv(REPORT / "runs.csv")
CURVES = pd.read_csv(REPORT / "curves.csv")
TUNING = pd.read_csv(REPORT / "tuning.csv")
HORIZON = pd.read_csv(REPORT / "horizon.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
GROWN, TWELVE, SIX = "4-to-12", "depth-12", "depth-6"


def of(group, column="loss"):
    """A column of a group's runs, by seed."""
    return RUNS[RUNS["group"] == group].set_index("seed")[column]


def reached(group, seed, loss, axis):
    """Where on an axis a run first falls to a loss, linearly interpolated; NaN if it does not."""
    curve = CURVES[(CURVES["group"] == group) & (CURVES["seed"] == seed)]
    points = list(zip(curve[axis], curve["loss"], strict=True))
    for (before, high), (after, low) in pairwise(points):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return np.nan


def speed_up(reference, group, axis):
    """Amount the reference needs to its own final loss ÷ amount of the group, by seed."""
    ratios = []
    for seed in sorted(of(group).index):
        curve = CURVES[(CURVES["group"] == reference) & (CURVES["seed"] == seed)]
        final = curve["loss"].iloc[-1]
        ratios.append(reached(reference, seed, final, axis) / reached(group, seed, final, axis))
    return np.array(ratios)


def test_each_group_has_its_seeds_and_equal_flops():
    for group in (GROWN, TWELVE, SIX):
        assert sorted(of(group).index) == [1, 2, 3, 4, 5, 6]
    assert RUNS["flops"].between(0.999e13, 1e13).all()


def test_the_table_of_losses():
    for group, name in (
        (GROWN, "4 layers, 12 from 50 % on"),
        (TWELVE, "12 layers"),
        (SIX, "6 layers"),
    ):
        losses, seconds = of(group), of(group, "seconds")
        expected = [f"{of(group, 'steps').iloc[0]:,}", f"{seconds.mean():.0f}"]
        assert row_of(PAGE, name) == [*expected, f"{losses.mean():.3f}", f"{losses.std():.3f}", str(len(losses))]


def test_differences_and_their_intervals():
    for one, other, name in (
        (GROWN, TWELVE, "grown − 12 layers"),
        (GROWN, SIX, "grown − 6 layers"),
        (SIX, TWELVE, "6 layers − 12 layers"),
    ):
        change = (of(one) - of(other)).dropna()
        mean, low, high = interval(change)
        assert row_of(PAGE, name) == [signed(mean), f"{signed(low)} to {signed(high)}", str(len(change))]


def test_the_headline():
    mean, low, high = interval(of(GROWN) - of(TWELVE))
    assert f"{-mean:.3f} below twelve layers" in PAGE.replace("\n", " ")
    assert f"(95 % interval {signed(low)} to {signed(high)}, paired t, n = 6 seeds)" in PAGE.replace("\n", " ")
    mean, low, high = interval(of(GROWN) - of(SIX))
    assert f"{mean:.3f} above six layers ({signed(low)} to {signed(high)})" in PAGE
    changes = of(GROWN) - of(TWELVE)
    assert f"from {signed(changes.min())} to {signed(changes.max())}" in PAGE
    assert all(0.01 < of(group).std() < 0.0205 for group in (GROWN, TWELVE, SIX))


def test_how_many_grown_runs_reach_the_final_loss_of_a_fixed_depth():
    count = {group: np.isfinite(speed_up(group, GROWN, "flops")).sum() for group in (TWELVE, SIX)}
    assert count == {TWELVE: 3, SIX: 2}
    assert "twelve layers of the same seed in 3 of 6 runs, and that of six layers in 2 of 6" in re.sub(
        r"\s+", " ", PAGE
    )


def test_the_head_start_at_growth():
    """At the last evaluation before growth, which is at step 2336 of 4671."""
    ahead = {TWELVE: [], SIX: []}
    for seed in of(GROWN).index:
        curve = CURVES[(CURVES["group"] == GROWN) & (CURVES["seed"] == seed)]
        last = curve[curve["step"] == 2336].iloc[-1]
        for group, starts in ahead.items():
            starts.append((reached(group, seed, last["loss"], "flops") - last["flops"]) / 1e12)
    mean, low, high = interval(ahead[TWELVE])
    assert f"{mean:.2f}e12 FLOPs ahead of twelve layers" in PAGE.replace("\n", " ")
    assert f"(95 % interval {low:.2f}e12 to +{high:.2f}e12, n = 6)".replace("-", "−") in PAGE
    assert f"{mean / 10:.0%}".replace("%", " %") == "8 %"
    mean, low, high = interval(ahead[SIX])
    assert f"{-mean:.2f}e12 FLOPs *behind* six layers ({-high:.2f}e12 to {-low:.2f}e12)" in PAGE


def test_what_the_insertions_cost():
    jumps = []
    for seed in of(GROWN).index:
        curve = CURVES[(CURVES["group"] == GROWN) & (CURVES["seed"] == seed)].set_index("step")
        before, at, after = (curve.loc[step] for step in (2336, 2340, 2574))
        jumps.append(at["loss"] - before["loss"])
        assert after["loss"] < before["loss"]
        assert f"evaluation, {(after['flops'] - at['flops']) / 1e12:.2f}e12 FLOPs later" in PAGE
    mean, low, high = interval(jumps)
    assert f"by {mean:.2f} (95 % interval {low:.2f} to {high:.2f})" in PAGE


def test_the_index_and_the_first_page():
    mean, low, high = interval(of(GROWN) - of(TWELVE))
    index = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    assert f"{signed(mean)} against twelve layers (95 % interval {signed(low)} to {signed(high)})" in index
    first = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"difference {signed(mean)}, 95 % interval {signed(low)} to {signed(high)}, n = 6 seeds" in first
    mean, low, high = interval(of(GROWN) - of(SIX))
    assert f"{signed(mean)} against six ({signed(low)} to {signed(high)}), n = 6 seeds" in index


def test_the_table_of_what_was_tuned():
    rows = []
    for _, run in TUNING.iterrows():
        depth = f"{run['layers']}"
        if run["initial_layers"] != run["layers"]:
            depth = f"{run['initial_layers']} to {run['layers']}, at {run['at']:.0%}".replace("%", " %")
        decay = f"{run['decay_ratio']:.0%}".replace("%", " %")
        rows.append(f"| {depth} | {decay} | {run['lr']:g} | {run['steps']:,} | {run['loss']:.3f} |")
    assert re.findall(r"^\| \d+[^|]* \| \d+ % \| [^|]* \| [^|]* \| [^|]* \|$", PAGE, re.M) == rows
    assert TUNING["flops"].between(0.99e13, 1.05e13).all()
    six = TUNING[(TUNING["initial_layers"] == 6) & (TUNING["lr"] == 0.007)].set_index("decay_ratio")["loss"]
    other = pd.read_csv(REPORT.parent / "depth" / "growth.csv").set_index("run")["loss"]["12 layers from the start"]
    twelve = TUNING[(TUNING["initial_layers"] == 12) & (TUNING["lr"] == 0.01)]["loss"].item()
    assert f"({six[0.2] - six[0.5]:.3f} for six layers, {other - twelve:.3f} for twelve, of one seed)" in PAGE


def test_the_longer_horizon():
    rows = []
    for _, run in HORIZON.iterrows():
        depth = f"{run['layers']}"
        if run["initial_layers"] != run["layers"]:
            where = {"interleave": "each copy above its donor", "middle": "copies in the middle"}[run["position"]]
            depth = f"{run['initial_layers']} to {run['layers']}, at {run['at']:.0%}, {where}".replace("%", " %")
        decay = f"{run['decay_ratio']:.0%}".replace("%", " %")
        flops = f"{run['flops'] / 1e13:.2f}e13"
        rows.append(f"| {depth} | {decay} | {run['lr']:g} | {run['steps']:,} | {flops} | {run['loss']:.3f} |")
    assert all(row in PAGE for row in rows)
    short = TUNING[(TUNING["initial_layers"] == 12) & (TUNING["lr"] == 0.01)].iloc[0]
    long = HORIZON[HORIZON["initial_layers"] == 12].iloc[0]
    slope = (long["loss"] - short["loss"]) / np.log(long["flops"] / short["flops"])
    text = " ".join(PAGE.split())
    assert f"falls from {short['loss']:.3f} to {long['loss']:.3f}" in text
    others = HORIZON[(HORIZON["initial_layers"] < 12) & (HORIZON["position"] != "middle")].set_index("initial_layers")
    below = short["loss"] + slope * np.log(others["flops"] / short["flops"]) - others["loss"]
    assert f"from 2 and from 3 layers are {below[2]:.3f} and {below[3]:.3f} below" in text
    assert f"Six layers are {below[6]:.3f} below" in text
    speed_ups = np.exp((others["loss"] - short["loss"]) / slope) * short["flops"] / others["flops"]
    assert [f"{speed_ups[layers]:.1f}" for layers in (2, 3)] == ["1.2", "1.2"]
    three = HORIZON[HORIZON["initial_layers"] == 3].set_index("position")["loss"]
    assert f"above each donor, by {three['middle'] - three['interleave']:.3f}" in text

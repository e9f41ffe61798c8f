"""Every number in reports/default is recomputed from its data, by pandas and scipy alone."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.reports.pages import interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "default"
RUNS = pd.read_csv(REPORT / "runs.csv")
CURVES = pd.read_csv(REPORT / "curves.csv")
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
FIRST_PAGE = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
LOSSES = RUNS.pivot(index="seed", columns="group", values="loss")
FIXED = {f"depth-{layers}": f"{layers} layers" for layers in (2, 3, 4, 8, 12)}
FIXED |= {"depth-1": "1 layer", "depth-6": "6 layers"}
OTHERS = FIXED | {"depth": "3 to 6 layers", "depth-4-context": "4 layers, 32 to 128 tokens"}
RESULTS, DIFFERENCES = PAGE.split("The preset minus each of the others")


def change(group, reference):
    return (LOSSES[group] - LOSSES[reference]).dropna()


def p_of(values):
    p = stats.ttest_1samp(values, 0).pvalue
    return f"{p:.1g}" if p < 0.01 else f"{p:.2g}"


def reach(values):
    _, low, high = interval(values)
    return f"{signed(low)} to {signed(high)}"


def row(values):
    return [signed(values.mean()), reach(values), p_of(values)]


def speed_up(group):
    """Ratio and 95 % interval of FLOPs to the last eval loss of a group, of the group and of the preset."""
    found = []
    for seed, curve in CURVES[CURVES["group"] == group].groupby("seed"):
        grown = CURVES[(CURVES["group"] == "3-to-6") & (CURVES["seed"] == seed)]
        final = curve["loss"].iloc[-1]
        found.append(reached(curve, final) / reached(grown, final))
    assert len(found) == 6
    return [f"{value:.2f}" for value in np.exp(interval(np.log(found)))]


def reached(curve, loss):
    for (before, high), (after, low) in pairwise(zip(curve["flops"], curve["loss"], strict=True)):
        if low <= loss < high:
            return before + (after - before) * (high - loss) / (high - low)
    return np.nan


def test_runs_have_equal_flops():
    assert RUNS["flops"].between(0.998 * 1.9655e12, 1.9655e12).all()
    assert LOSSES.index.tolist() == list(range(41, 53))


def test_the_losses():
    names = OTHERS | {"grown": "3 to 6 layers, 32 to 128 tokens"}
    for group, name in names.items():
        losses, [steps] = LOSSES[group].dropna(), RUNS.loc[RUNS["group"] == group, "steps"].unique()
        expected = [f"{steps:,}", f"{losses.mean():.3f}", f"{losses.std():.3f}", str(len(losses))]
        assert row_of(RESULTS, name) == expected, group


@pytest.mark.parametrize("group", OTHERS)
def test_the_preset_minus_the_others(group):
    values = change("grown", group)
    assert row_of(DIFFERENCES, OTHERS[group]) == [*row(values), str(len(values))]


def test_the_preset_beats_every_fixed_depth():
    found = {group: stats.ttest_1samp(change("grown", group), 0).pvalue for group in FIXED}
    assert max(found.values()) == found["depth-4"] < 0.05
    assert all(change("grown", group).mean() < 0 for group in FIXED)
    assert LOSSES[[*FIXED]].mean().idxmin() == "depth-4"


def test_the_headline_and_the_first_page():
    six, four = change("grown", "depth-6"), change("grown", "depth-4")
    assert f"ends {-six.mean():.3f} below six layers" in TEXT and f"(95 % interval {reach(six)}, paired t" in TEXT
    assert f"{-four.mean():.3f} below four layers, the best fixed depth ({reach(four)}; p = 0.020)" in TEXT
    assert p_of(four) == "0.02"
    assert "of six layers with {} times fewer FLOPs ({} to {})".format(*speed_up("depth-6")) in TEXT
    assert "that of four layers with {} times fewer ({} to {})".format(*speed_up("depth-4")) in TEXT
    for page in (FIRST_PAGE, " ".join((ROOT / "reports" / "README.md").read_text(encoding="utf-8").split())):
        assert f"{-six.mean():.3f}" in page and f"{-four.mean():.3f}" in page
        assert "{} times fewer FLOPs ({} to {})".format(*speed_up("depth-6")) in page


def test_depth_or_sequence_length():
    for start, group, reference in (
        ("depth alone", "depth", "depth-4"),
        ("sequences alone", "depth-4-context", "depth-4"),
        ("depth, when sequences grow too", "grown", "depth-4-context"),
        ("sequences, when the depth grows too", "grown", "depth"),
    ):
        values = change(group, reference)
        [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {start}")]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == [*row(values), str(len(values))]
    spread = stats.levene(LOSSES["depth"].dropna(), LOSSES["depth-4"].dropna(), center="median")
    assert f"(Brown–Forsythe test, p = {spread.pvalue:.3f}, n = 12 seeds each)" in TEXT


def test_the_levers():
    for lever in ("gate", "average"):
        values = change(lever, "depth")
        assert len(values) == 6
        [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {lever}:")]
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == row(values)

"""Every number in reports/disturbance is recomputed from its curves, by pandas and scipy alone."""

from pathlib import Path

import pandas as pd
from scipy import stats

from tests.reports.pages import cells, interval, signed

ROOT = Path(__file__).parents[2]
CURVES = pd.read_csv(ROOT / "reports" / "disturbance" / "curves.csv")
CURVES["change"] = CURVES["loss"] - CURVES["twin"]
PAGE = (ROOT / "reports" / "disturbance" / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
ROWS = [cells(line) for line in PAGE.splitlines() if line.startswith("|")]
POSITIONS = {"bottom": "300@0", "middle": "300@3", "top": "300@6"}
SETTINGS = {"depth": 6, "lr": 0.01, "noise": 0.0, "learning_rate": "none"}
BIRTH, AFTER, END = [300], [325, 350, 375, 400], [500]


def change(steps, initializer, schedule, **settings):
    """Loss − loss of the twin by seed, averaged over steps."""
    chosen = CURVES[CURVES["step"].isin(steps)]
    wanted = SETTINGS | settings | {"initializer": initializer, "schedule": schedule}
    for column, value in wanted.items():
        chosen = chosen[chosen[column] == value]
    return chosen.groupby("seed")["change"].mean()


def words(values):
    mean, low, high = interval(values)
    return [signed(mean), f"{signed(low)} to {signed(high)}"]


def p_of(values):
    return f"{stats.ttest_1samp(values, 0).pvalue:.2g}"


def row(name, *which, **settings):
    birth, after = change(BIRTH, *which, **settings), change(AFTER, *which, **settings)
    at_birth = words(birth) if birth.abs().max() > 1e-6 else ["0", ""]
    return [*name, *at_birth, *words(after)]


IDENTITY = change(AFTER, "identity", "300@0")
REWARMED = change(AFTER, "identity", "300@0", learning_rate="rewarm-new")
OTHERS = pd.concat(
    [
        change(AFTER, initializer, schedule)
        for initializer in ("clone", "identity", "random")
        for schedule in POSITIONS.values()
        if (initializer, schedule) != ("identity", "300@0")
    ],
    axis=1,
).mean(axis=1)


def test_all_cells_have_four_seeds_and_the_others_three():
    seeds = CURVES.groupby(["depth", "lr", "schedule", "initializer", "noise", "learning_rate"])["seed"].unique()
    assert len(seeds) == 16 and sorted(map(len, seeds)) == [3] * 6 + [4] * 10
    assert CURVES.groupby("step").size().index.tolist() == list(range(300, 501, 25))


def test_the_table_of_positions_and_initializers():
    for initializer in ("clone", "identity", "random"):
        for position, schedule in POSITIONS.items():
            assert row([initializer, position], initializer, schedule) in ROWS
    assert row(["identity, rewarm-new", "bottom"], "identity", "300@0", learning_rate="rewarm-new") in ROWS


def test_the_table_of_clones_in_the_middle():
    assert row(["none"], "clone", "300@3") in ROWS
    for noise in (0.1, 0.3):
        assert row([f"noise {noise}"], "clone-noise", "300@3", noise=noise) in ROWS
    for rate in (0.005, 0.02):
        assert row([f"learning rate {rate}"], "clone", "300@3", lr=rate) in ROWS
    for depth, schedule in ((3, "300@1"), (12, "300@6")):
        assert row([f"{depth} layers"], "clone", schedule, depth=depth) in ROWS


def test_the_headline_and_the_index():
    more, cured = IDENTITY - OTHERS, REWARMED - IDENTITY
    mean, reach = words(IDENTITY)
    assert f"the loss is {mean[1:]} above that without the insertion" in TEXT
    assert f"(95 % interval {reach}, paired t, n = 4 seeds; p = {p_of(IDENTITY)})" in TEXT
    mean, reach = words(more)
    assert f"{mean[1:]} more than the mean of the eight others ({reach}; p = {p_of(more)})" in TEXT
    assert f"{mean[1:]} more than after the others (95 % interval {reach}, n = 4 seeds)" in INDEX
    mean, reach = words(cured)
    assert f"changes this by {mean} ({reach}; p = {p_of(cured)})" in TEXT


def test_sentences():
    bottom = change(BIRTH, "clone", "300@0")
    for schedule in ("300@3", "300@6"):
        assert ((bottom - change(BIRTH, "clone", schedule)) > 0).all()
    difference, reach = words(bottom - change(BIRTH, "clone", "300@3"))
    assert f"{difference[1:]} more than a clone in the middle ({reach})" in TEXT
    for initializer in ("clone", "identity", "random"):
        for schedule in POSITIONS.values():
            _, low, high = interval(change(END, initializer, schedule))
            assert low < 0 < high


def test_noise_learning_rate_and_depth():
    plain = change(BIRTH, "clone", "300@3")
    noisy, faster = change(BIRTH, "clone-noise", "300@3", noise=0.3), change(BIRTH, "clone", "300@3", lr=0.02)
    shallow, deep = change(BIRTH, "clone", "300@1", depth=3), change(BIRTH, "clone", "300@6", depth=12)
    for found, start in ((noisy, "is "), (faster, "a rate of 0.02 − 0.01 is "), (shallow, "three to six layers is ")):
        mean, reach = words((found - plain).dropna())
        assert f"{start}{mean} ({reach})" in TEXT
    assert f"by {shallow.mean():.3f} with three layers and by {deep.mean():.3f} with twelve" in TEXT
    for initializer in ("clone", "identity", "random"):
        for schedule in POSITIONS.values():
            if (initializer, schedule) != ("identity", "300@0"):
                _, low, high = interval(change(AFTER, initializer, schedule))
                assert low < 0 < high

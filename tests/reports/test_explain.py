"""Every number in reports/explain is recomputed from its runs, by pandas, scipy and enumeration alone."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import interval, row_of, signed

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "explain"
RUNS = pd.read_csv(REPORT / "runs.csv")
TESTS = pd.read_csv(REPORT / "tests.csv").set_index(["measure", "reference"])
PAGE = (REPORT / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
WIDE = RUNS.pivot(index="seed", columns=["measure", "reference"], values="difference")
SIGNS = np.array(list(itertools.product((1, -1), repeat=len(WIDE))))
PRIMARY = ("log_grad_rms", "age")
REFERENCES = {
    "age": "same age",
    "depth": "same depth",
    "scratch": "not grown",
    "depth-scratch": "same depth, corrected",
}


def sizes(differences):
    """|t| of each test for each combination of signs of the runs."""
    flipped = SIGNS[:, :, None] * differences
    return np.abs(flipped.mean(axis=1)) / flipped.std(axis=1, ddof=1) * len(differences) ** 0.5


def written(value, digits=3):
    return f"{value:.{digits}f}".replace("-", "−")


def test_all_runs_have_all_measures():
    assert sorted(WIDE.index) == [11, 12, 13, 14, 15, 16] and not WIDE.isna().any(axis=None)
    assert set(TESTS.index) == set(WIDE.columns) and (TESTS["runs"] == 6).all()
    assert np.allclose(RUNS["difference"], RUNS["inserted"] - RUNS["matched"], atol=2e-6)


def test_the_committed_tests():
    for which, row in TESTS.iterrows():
        low, high = row[["difference_low", "difference_high"]]
        assert (row["difference"], low, high) == pytest.approx(interval(WIDE[which]), rel=1e-3, abs=1e-5)
        sums = np.abs(SIGNS @ WIDE[which].to_numpy())
        assert row["p"] == pytest.approx((sums >= sums[0] * (1 - 1e-9)).mean(), abs=1e-6)
        larger = (WIDE[which] > 0).sum() - (WIDE[which] < 0).sum()
        assert row["cliffs_delta"] == pytest.approx(larger / 6, abs=1e-5)
    others = [which for which in WIDE.columns if which != PRIMARY]
    found = sizes(WIDE[others].to_numpy())
    adjusted = (found.max(axis=1)[:, None] >= found[0] * (1 - 1e-9)).mean(axis=0)
    assert TESTS.loc[others, "p_adjusted"].to_numpy() == pytest.approx(adjusted, abs=1e-6)
    assert TESTS.loc[[PRIMARY], "p_adjusted"].iloc[0] == TESTS.loc[[PRIMARY], "p"].iloc[0]


def test_the_table():
    for which, row in TESTS.iterrows():
        measure, reference = which
        mean, low, high = interval(WIDE[which])
        cells = row_of(PAGE, f"`{measure}`, {REFERENCES[reference]}")
        p = f"{row['p_adjusted']:.2g}" if row["p_adjusted"] < 0.1 else f"{row['p_adjusted']:.2f}"
        means = [written(row["inserted"]), written(row["matched"])]
        assert cells == [*means, signed(mean), f"{signed(low)} to {signed(high)}", p], which


def test_the_headline_and_the_index():
    mean, low, high = (np.exp(value) for value in interval(WIDE[PRIMARY]))
    p = TESTS.loc[[PRIMARY], "p"].iloc[0]
    ratio = f"{mean:.2f} times"
    reach = f"95 % interval {low:.2f} to {high:.2f}"
    assert ratio in TEXT and f"({reach}, n = 6 seeds; exact sign-flip test, p = {p:.3f}, the smallest" in TEXT
    assert ratio in (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
    significant = int((TESTS.drop(index=[PRIMARY])["p_adjusted"] < 0.05).sum())
    assert f"{significant} of {len(TESTS) - 1} other differences are significant" in TEXT


def test_sentences():
    def mean(column, measure, reference):
        return TESTS.loc[[(measure, reference)], column].iloc[0]

    used = [f"{mean(column, 'skip', 'scratch'):.3f}" for column in ("inserted", "matched")]
    assert f"raises the loss by {used[0]} instead of {used[1]}" in TEXT
    assert (TESTS.loc["log_grad_rms", "difference_high"] < 0).all()
    for measure in ("skip", "swap", "ffn", "head", "head_importance"):
        assert (TESTS.loc[measure].loc[["depth", "scratch"], "difference_high"] < 0).all()
    corrected = TESTS.xs("depth-scratch", level="reference")["p_adjusted"]
    assert (corrected[["skip", "swap", "ffn"]] > 0.05).all() and (corrected[["head", "head_importance"]] < 0.05).all()
    decided = TESTS.loc["decided"]
    assert (decided["difference_high"] < 0).all() and decided.loc["scratch", "p_equivalence"] < 0.05
    assert TESTS["p"].min() == 2 / 2**6


def test_losses():
    losses = pd.read_csv(REPORT / "losses.csv")
    assert losses["flops"].between(1.99e12, 2e12).all()
    assert losses.groupby("group")["seed"].apply(sorted).tolist() == [sorted(WIDE.index)] * 2
    means = losses.groupby("group")["loss"].mean()
    assert f"mean loss of {means['grown']:.3f}, the models with twelve layers at {means['scratch']:.3f}" in TEXT
    steps = losses[losses["group"] == "grown"]["steps"].unique()
    assert steps.tolist() == [934] and f"inserted layers are {934 // 2} steps old" in TEXT

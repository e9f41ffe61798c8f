"""Every number in reports/explain and explain-twelve is recomputed from its runs, by pandas and scipy."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import interval, row_of, signed

REPORTS = Path(__file__).parents[2] / "reports"
INDEX = (REPORTS / "README.md").read_text(encoding="utf-8")
SIGNS = np.array(list(itertools.product((1, -1), repeat=6)))
PRIMARY = ("log_grad_rms", "age")
REFERENCES = {
    "age": "same age",
    "depth": "same depth",
    "scratch": "not grown",
    "depth-scratch": "same depth, corrected",
}


class Report:
    """The committed tables and the page of a report."""

    def __init__(self, name):
        folder = REPORTS / name
        self.name, self.page = name, (folder / "README.md").read_text(encoding="utf-8")
        self.text = " ".join(self.page.split())
        self.runs, self.losses = (pd.read_csv(folder / file) for file in ("runs.csv", "losses.csv"))
        self.tests = pd.read_csv(folder / "tests.csv").set_index(["measure", "reference"])
        self.wide = self.runs.pivot(index="seed", columns=["measure", "reference"], values="difference")

    def value(self, column, measure, reference):
        return self.tests.loc[[(measure, reference)], column].iloc[0]


DEFAULT, TWELVE = Report("explain"), Report("explain-twelve")


@pytest.fixture(params=[DEFAULT, TWELVE], ids=["default", "twelve"])
def report(request):
    return request.param


def sizes(differences):
    """|t| of each test for each combination of signs of the runs."""
    flipped = SIGNS[:, :, None] * differences
    return np.abs(flipped.mean(axis=1)) / flipped.std(axis=1, ddof=1) * len(differences) ** 0.5


def written(value, digits=3):
    return f"{value:.{digits}f}".replace("-", "−")


def test_all_runs_have_all_measures(report):
    runs, tests, wide = report.runs, report.tests, report.wide
    assert len(wide) == 6 and not wide.isna().any(axis=None)
    assert set(tests.index) == set(wide.columns) and (tests["runs"] == 6).all()
    assert np.allclose(runs["difference"], runs["inserted"] - runs["matched"], atol=2e-6)


def test_the_committed_tests(report):
    tests, wide = report.tests, report.wide
    for which, row in tests.iterrows():
        low, high = row[["difference_low", "difference_high"]]
        assert (row["difference"], low, high) == pytest.approx(interval(wide[which]), rel=1e-3, abs=1e-5)
        sums = np.abs(SIGNS @ wide[which].to_numpy())
        assert row["p"] == pytest.approx((sums >= sums[0] * (1 - 1e-9)).mean(), abs=1e-6)
        larger = (wide[which] > 0).sum() - (wide[which] < 0).sum()
        assert row["cliffs_delta"] == pytest.approx(larger / 6, abs=1e-5)
    others = [which for which in wide.columns if which != PRIMARY]
    found = sizes(wide[others].to_numpy())
    adjusted = (found.max(axis=1)[:, None] >= found[0] * (1 - 1e-9)).mean(axis=0)
    assert tests.loc[others, "p_adjusted"].to_numpy() == pytest.approx(adjusted, abs=1e-6)
    assert report.value("p_adjusted", *PRIMARY) == report.value("p", *PRIMARY)


def test_the_table(report):
    for which, row in report.tests.iterrows():
        measure, reference = which
        mean, low, high = interval(report.wide[which])
        cells = row_of(report.page, f"`{measure}`, {REFERENCES[reference]}")
        p = f"{row['p_adjusted']:.2g}" if row["p_adjusted"] < 0.1 else f"{row['p_adjusted']:.2f}"
        means = [written(row["inserted"]), written(row["matched"])]
        assert cells == [*means, signed(mean), f"{signed(low)} to {signed(high)}", p], which


def test_the_headline_and_the_index(report):
    mean, low, high = (np.exp(value) for value in interval(report.wide[PRIMARY]))
    ratio, reach = f"{mean:.2f} times", f"95 % interval {low:.2f} to {high:.2f}"
    words = f"({reach}, n = 6 seeds; exact sign-flip test, p = {report.value('p', *PRIMARY):.3f}, the smallest"
    assert ratio in report.text and words in report.text
    [line] = [line for line in INDEX.splitlines() if f"({report.name}/README.md)" in line]
    assert ratio in line and reach in line
    significant = int((report.tests.drop(index=[PRIMARY])["p_adjusted"] < 0.05).sum())
    assert f"{significant} of {len(report.tests) - 1} other differences are significant" in report.text
    assert report.tests["p"].min() == 2 / 2**6


def test_losses(report):
    losses = report.losses
    assert losses["flops"].between(0.995 * losses["flops"].max(), 2e12).all()
    assert losses.groupby("group")["seed"].apply(sorted).tolist() == [sorted(report.wide.index)] * 2


def test_sentences_about_four_to_twelve_layers():
    tests, text = TWELVE.tests, TWELVE.text
    used = [f"{TWELVE.value(column, 'skip', 'scratch'):.3f}" for column in ("inserted", "matched")]
    assert f"raises the loss by {used[0]} instead of {used[1]}" in text
    assert (tests.loc["log_grad_rms", "difference_high"] < 0).all()
    for measure in ("skip", "swap", "ffn", "head", "head_importance"):
        assert (tests.loc[measure].loc[["depth", "scratch"], "difference_high"] < 0).all()
    corrected = tests.xs("depth-scratch", level="reference")["p_adjusted"]
    assert (corrected[["skip", "swap", "ffn"]] > 0.05).all() and (corrected[["head", "head_importance"]] < 0.05).all()
    decided = tests.loc["decided"]
    assert (decided["difference_high"] < 0).all() and decided.loc["scratch", "p_equivalence"] < 0.05
    means = TWELVE.losses.groupby("group")["loss"].mean()
    assert f"mean loss of {means['grown']:.3f}, the models with twelve layers at {means['scratch']:.3f}" in text
    steps = TWELVE.losses[TWELVE.losses["group"] == "grown"]["steps"].unique()
    assert steps.tolist() == [934] and f"inserted layers are {934 // 2} steps old" in text


def test_sentences_about_the_default_preset():
    tests, text = DEFAULT.tests, DEFAULT.text
    used = [f"{DEFAULT.value(column, 'skip', 'scratch'):.3f}" for column in ("inserted", "matched")]
    assert f"an inserted layer raises the loss by {used[0]}, skipping a layer at the same index" in text
    p = DEFAULT.value("p_adjusted", "skip", "scratch")
    assert f"did not grow by {used[1]} (p = {p:.2g} after adjustment)" in text
    assert f"Without one of them, the loss rises by {used[0]}." in text
    assert (tests.loc["log_grad_rms"].loc[["age", "depth"], "p_adjusted"] < 0.05).all()
    corrected = tests.xs("depth-scratch", level="reference")["p_adjusted"]
    assert (corrected[["skip", "ffn", "head", "head_importance", "block_influence"]] < 0.05).all()
    assert (DEFAULT.wide["skip", "scratch"] > DEFAULT.wide["skip", "depth-scratch"]).all()
    decided = [f"{DEFAULT.value(column, 'decided', 'scratch'):.3f}" for column in ("inserted", "matched")]
    assert f"did not grow ({decided[0]} and {decided[1]})" in text
    assert DEFAULT.value("p_adjusted", "decided", "scratch") < 0.05
    equal = [DEFAULT.value("p_equivalence", measure, "scratch") for measure in ("probe_gain", "logit_share")]
    assert f"within the margin of 0.01 (p = {equal[0]:.1g})" in text and f"within 0.05 (p = {equal[1]:.1g})" in text
    assert f"skipping one raises the loss by {TWELVE.value('inserted', 'skip', 'scratch'):.3f}." in text
    means = DEFAULT.losses.groupby("group")["loss"].mean()
    assert f"mean loss of {means['grown']:.3f}, the models with six layers at {means['scratch']:.3f}" in text
    steps = DEFAULT.losses[DEFAULT.losses["group"] == "grown"]["steps"].unique()
    assert steps.tolist() == [1511] and f"inserted layers are {1511 - 504:,} steps" in text

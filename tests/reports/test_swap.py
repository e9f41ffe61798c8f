"""Every number in reports/swap is recomputed from its runs, by pandas and scipy alone."""

from pathlib import Path

import pandas as pd
from scipy import stats

from tests.reports.pages import interval, signed

ROOT = Path(__file__).parents[2]
RUNS = pd.read_csv(ROOT / "reports" / "swap" / "runs.csv")
PAGE = (ROOT / "reports" / "swap" / "README.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
INDEX = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")
NAMES = {"3-to-6": "3 to 6 layers", "depth-6": "6 layers"}
SHARES = {0.0: "none", 0.1: "10 %", 0.3: "30 %"}


def values(group, share, column="loss"):
    return RUNS[(RUNS["group"] == group) & (RUNS["probability"] == share)].set_index("seed")[column]


def change(group, share, column="loss"):
    return values(group, share, column) - values(group, 0, column)


def reach(differences):
    _, low, high = interval(differences)
    return f"{signed(low)} to {signed(high)}"


def p_of(differences):
    return f"{stats.ttest_1samp(differences, 0).pvalue:.2g}"


def test_all_runs_are_there_and_without_swaps_they_are_those_of_the_default_preset():
    assert RUNS["flops"].between(1.96e12, 1.97e12).all()
    default = pd.read_csv(ROOT / "reports" / "default" / "runs.csv")
    for group, theirs in (("3-to-6", "grown"), ("depth-6", "depth-6")):
        for share in SHARES:
            assert sorted(values(group, share).index) == [41, 42, 43, 44]
        losses = default[default["group"] == theirs].set_index("seed")["loss"]
        assert (values(group, 0) - losses).dropna().abs().lt(1e-6).sum() == 4


def test_both_tables():
    for group, name in NAMES.items():
        for share, words in SHARES.items():
            means = [f"{values(group, share, column).mean():.3f}" for column in ("loss", "swapped", "skipped")]
            assert f"| {name} | {words} | {' | '.join(means)} |" in PAGE
            if share:
                changed = change(group, share)
                row = [signed(changed.mean()), reach(changed), p_of(changed)]
                assert f"| {name} | {words} | {' | '.join(row)} |" in PAGE


def test_the_headline_and_the_index():
    few, many = change("3-to-6", 0.1), change("3-to-6", 0.3)
    words = f"ends {few.mean():.3f} higher (95 % interval {reach(few)}, paired t, n = 4 seeds; p = {p_of(few)})"
    assert words in TEXT and words.split(", paired")[0].removeprefix("ends ") in INDEX
    assert f"with 30 % {many.mean():.3f} higher ({reach(many)}; p = {p_of(many)})" in TEXT
    swapped = [f"{values('3-to-6', share, 'swapped').mean():.3f}" for share in SHARES]
    assert "by {} without swaps in training, by {} with 10 %, and by {} with 30 %".format(*swapped) in TEXT


def test_sentences():
    for share, words in ((0.1, "with 10 %"), (0.3, "with 30 %")):
        more = change("3-to-6", share) - change("depth-6", share)
        assert f"{signed(more.mean())} {words} ({reach(more)})" in TEXT
    skipped = -change("3-to-6", 0.1, "skipped")
    mean, low, high = interval(skipped)
    assert f"costs {mean:.3f} less ({low:.3f} to {high:.3f})" in TEXT

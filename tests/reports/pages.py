"""Numbers as the pages of reports write them, and the tables of these pages."""

import re

import numpy as np
import pytest
from scipy import stats


def interval(values):
    """Mean and 95 % t-interval."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return np.mean(values), low, high


def signed(value):
    return f"{value:+.3f}".replace("-", "−")


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def row_of(page, start):
    """The cells after the first in the row that begins with some words, maybe followed by words in parentheses."""
    [line] = re.findall(rf"^\| {re.escape(start)}(?: \([^|]*\))? \|.*$", page, re.M)
    return cells(line)[1:]


def assert_differences(committed, losses, reference):
    """Check differences.csv against losses by seed (rows) and variant (columns)."""
    found = committed.set_index("variant")
    assert sorted(found.index) == sorted(set(losses) - {reference})
    for variant, row in found.iterrows():
        change = losses[variant] - losses[reference]
        assert row[["difference", "low", "high"]].tolist() == pytest.approx(interval(change))
        assert row["n"] == len(change)
        assert row["p"] == pytest.approx(stats.ttest_rel(losses[variant], losses[reference]).pvalue)
    ranked = found.sort_values("p")
    stepped = [min(1, p * (len(ranked) - rank)) for rank, p in enumerate(ranked["p"])]
    assert ranked["holm"].tolist() == pytest.approx(np.maximum.accumulate(stepped).tolist())


def assert_table(page, committed, losses, reference, name_of):
    """Check the rows of a page: mean loss, difference, interval and adjusted p of each variant.

    Args:
        name_of: variant → its name on the page.
    """
    holm = committed.set_index("variant")["holm"]
    assert row_of(page, name_of(reference))[-4:] == [f"{losses[reference].mean():.3f}", "", "", ""]
    for variant in holm.index:
        mean, low, high = interval(losses[variant] - losses[reference])
        wanted = [f"{losses[variant].mean():.3f}", signed(mean), f"{signed(low)} to {signed(high)}"]
        assert row_of(page, name_of(variant))[-4:] == [
            *wanted,
            f"{holm[variant]:.2g}" if holm[variant] < 0.1 else f"{holm[variant]:.2f}",
        ]
